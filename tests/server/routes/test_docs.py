"""The page that describes the interface works without the internet."""

from __future__ import annotations

import re

import pytest

from tests.server.serving import serve


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    async with serve() as server:
        page = await server.get("/docs/")
        text = page.body.decode()
        needed = re.findall(r'(?:src|href)="([^"]+)"', text)
        kinds = {}
        for name in needed:
            answer = await server.get(f"/docs/{name}")
            assert (answer.status, answer.headers["x-content-type-options"]) == (200, "nosniff")
            kinds[name] = answer.headers["content-type"]
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "//" not in text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert kinds == {
        "swagger-ui.css": "text/css; charset=utf-8",
        "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "start.js": "text/javascript; charset=utf-8",
        "favicon-32x32.png": "image/png",
    }


async def test_the_page_shows_the_description() -> None:
    async with serve() as server:
        start = await server.get("/docs/start.js")
        assert b'"../api-doc/openapi.json"' in start.body  # relative: a proxy may put a prefix before it
        description = await server.get("/api-doc/openapi.json")
    assert (description.status, description.headers["content-type"]) == (200, "application/json")
    assert description.json["openapi"] == "3.1.0"


async def test_without_the_slash_it_redirects() -> None:
    async with serve() as server:
        answer = await server.request("GET", "/docs", allow_redirects=False)
        assert (await server.get("/docs")).body == (await server.get("/docs/")).body
    assert (answer.status, answer.headers["location"]) == (308, "docs/")


@pytest.mark.parametrize("name", ["x", "doc.html", "swagger-ui.js", "..%2f..%2fcore.py", "%2fetc%2fpasswd", "a%00b"])
async def test_no_other_file_can_be_read(name: str) -> None:
    async with serve() as server:
        assert (await server.get(f"/docs/{name}")).status in (400, 404)
