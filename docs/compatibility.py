"""Writes docs/compatibility.md from tests/compatibility.py: `python -m docs.compatibility`. A test compares."""

from __future__ import annotations

from pathlib import Path

from tests import compatibility
from tgi.cli.options import Setting, all_options

PAGE = Path(__file__).with_name("compatibility.md")
HEAD = """# What of TGI works here

Written by `python -m docs.compatibility` from `tests/compatibility.py`, whose every field is sent to a server by
`tests/test_compatibility.py`; change those, not this page.

- same: as TGI
- superset: TGI's meaning, and more
- fixed: a defect of TGI's that is not copied
- accepted: changes nothing, and says so
- refused: an error that names it

## Two dialects of a chat stream

TGI's clients need `role` in every delta, and the `id` of a call in every part of it; so these are there, for everyone.
OpenAI's SDKs join what they are told twice ("assistantassistant"). They name themselves by the header
`X-Stainless-Lang`; a request that has it, with any value, gets `role` only in the first delta of each choice and `id`
only in the first part of each call, as OpenAI sends them. Ids of calls are TGI's numbers, counted on from those of the
conversation; for OpenAI's SDKs, after other ids than numbers, and where the model's template wants it so (Mistral's),
they are nine random letters and digits.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        _table("Routes", "route", [(f"{m} {path}", state, note) for m, path, state, note in compatibility.ROUTES]),
    ]
    for title, fields in (
        ("Parameters of TGI's own routes", compatibility.PARAMETERS),
        ("Fields of /v1/chat/completions", compatibility.CHAT),
        ("Fields of /v1/completions", compatibility.COMPLETIONS),
    ):
        parts.append(_table(title, "field", [(field.name, field.state, field.note) for field in fields]))
    parts.append(_table("Flags of the launcher", "flag", [flag(name) for name in compatibility.FLAGS]))
    return "\n".join(parts)


def flag(name: str) -> tuple[str, str, str]:
    """A flag's row, told by the command line itself. Raises: StopIteration when it does not exist."""
    option = next(one for one in all_options() if f"--{name}" in one.opts)
    assert isinstance(option, Setting)
    if option.details.refuse:
        return f"--{name}", "refused", "values that need what does not exist yet"
    if option.details.note:
        return f"--{name}", "accepted", option.details.note
    return f"--{name}", "same", ""


def _table(title: str, kind: str, rows: list[tuple[str, str, str]]) -> str:
    lines = [f"| `{name}` | {state} | {note} |" for name, state, note in rows]
    return "\n".join([f"## {title}", "", f"| {kind} | state | note |", "|---|---|---|", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
