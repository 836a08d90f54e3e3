"""docs/compatibility.md says what is so: every field of TGI is sent, every flag is parsed, and the page compared."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.compatibility import CHAT, COMPLETIONS, FLAGS, PARAMETERS, ROUTES, Field, Flag
from tests.observed import HONOURED, IGNORED, REFUSED, all_fields, default, flag_state
from tgi.config import Http
from tgi.server.app import routes

DOCS = Path(__file__).parent.parent / "docs"
# What TGI ignores, and so does this; and what cannot be honoured.
UNUSED = {
    "/generate": {"num_beams", "max_length", "use_cache", "wait_for_model"},
    "/v1/chat/completions": {"user", "metadata", "best_of"},
    "/v1/completions": {"model", "user"},
}
IMPOSSIBLE = {
    "/generate": {"adapter_id"}, "/v1/chat/completions": {"chat_template", "messages"}, "/v1/completions": {"suffix"},
}  # fmt: skip


async def test_the_page_is_up_to_date() -> None:
    expected = await runpy.run_path(str(DOCS / "compatibility.py"))["page"]()
    assert (DOCS / "compatibility.md").read_text(encoding="utf-8") == expected, "run `python -m docs.compatibility`"


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/generate", PARAMETERS), ("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETIONS)],
)
async def test_a_field_is_honoured_unless_tgi_ignores_it_or_its_refusal_names_it(
    path: str, fields: list[Field]
) -> None:
    states = dict(zip((field.name for field in fields), await all_fields(path, fields), strict=True))
    assert {name for name, state in states.items() if state == IGNORED} == UNUSED[path]
    assert {name for name, state in states.items() if state == REFUSED} == IMPOSSIBLE[path]


def test_every_route_of_tgi_exists() -> None:
    assert {(method, path) for method, path, _ in ROUTES} <= {(one.method, one.path) for one in routes(Http())}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_has_tgis_names_and_default_and_is_never_dropped_silently(flag: Flag) -> None:
    state, refused = flag_state(flag)
    assert state in (HONOURED, IGNORED, REFUSED)
    assert state != REFUSED or refused
    assert default(flag) == flag.default or flag.why
