"""docs/compatibility.md says what is so: every field of TGI is sent, and answered as its row says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import CHAT, COMPLETIONS, FLAGS, PARAMETERS, REFUSED, ROUTES, Field
from tests.server.serving import answering, serve
from tgi.cli.options import all_options
from tgi.config import Http
from tgi.server.app import routes

DOCS = Path(__file__).parent.parent / "docs"
CASES = [
    *(("/generate", {"inputs": "x", "parameters": {field.name: field.value}}, field) for field in PARAMETERS),
    *(("/v1/chat/completions", {"messages": [], field.name: field.value}, field) for field in CHAT),
    *(("/v1/completions", {"prompt": "x", field.name: field.value}, field) for field in COMPLETIONS),
]


def test_the_page_is_up_to_date() -> None:
    expected = runpy.run_path(str(DOCS / "compatibility.py"))["page"]()
    assert (DOCS / "compatibility.md").read_text(encoding="utf-8") == expected, "run `python -m docs.compatibility`"


@pytest.mark.parametrize(("path", "body", "field"), CASES)
async def test_a_field_is_answered_as_its_row_says(path: str, body: dict[str, Any], field: Field) -> None:
    async with serve(answering("a")) as server:
        answer = await server.post(path, body)
    assert answer.status == (422 if field.state == REFUSED else 200), answer.body


def test_every_route_of_tgi_exists() -> None:
    assert {(method, path) for method, path, _, _ in ROUTES} <= {(one.method, one.path) for one in routes(Http())}


def test_every_flag_of_tgi_exists() -> None:
    assert {f"--{name}" for name in FLAGS} <= {name for option in all_options() for name in option.opts}
