"""GET `/docs/`: the description of the interface to read and to try, without asking anything of the internet.

The page is Swagger UI, from the package swagger-ui-py, which carries its files; none of that package's code is run.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from pathlib import Path

from aiohttp import web

DESCRIPTION = web.AppKey("description", bytes)  # the OpenAPI document

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Text Generation Inference</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="swagger-ui.css">
<link rel="icon" type="image/png" href="favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = """window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "../api-doc/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
  });
};
"""
_BUNDLED = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
# Swagger UI styles its elements in place and draws its icons from data; everything else comes from here.
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"


async def redirect(request: web.Request) -> web.StreamResponse:
    """GET `/docs`."""
    return web.Response(status=308, headers={"location": "docs/"})


async def page(request: web.Request) -> web.StreamResponse:
    """GET `/docs/`."""
    return _file(_PAGE.encode(), "text/html")


async def asset(request: web.Request) -> web.StreamResponse:
    """GET `/docs/{name}`: one of a few known files; a name is looked up, never made part of a path."""
    name = request.match_info["name"]
    if name == "start.js":
        return _file(_START.encode(), "text/javascript")
    if name not in _BUNDLED:
        raise web.HTTPNotFound
    return _file(await asyncio.to_thread(_bundled, name), _BUNDLED[name])


async def description(request: web.Request) -> web.StreamResponse:
    """GET `/api-doc/openapi.json`."""
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


def _file(data: bytes, kind: str) -> web.Response:
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
    charset = None if kind.startswith("image/") else "utf-8"
    return web.Response(body=data, headers=headers, content_type=kind, charset=charset)


@functools.cache
def _bundled(name: str) -> bytes:
    found = importlib.util.find_spec("swagger_ui")
    assert found is not None, "swagger-ui-py is a dependency of this package"
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "static" / name).read_bytes()
