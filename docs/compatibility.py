"""Writes docs/compatibility.md from what it sees: `python -m docs.compatibility`. A test compares."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.compatibility import CHAT, COMPLETIONS, FLAGS, PARAMETERS, ROUTES, Flag
from tests.observed import all_fields, default, flag_state
from tgi.cli.options import Setting, all_options

PAGE = Path(__file__).with_name("compatibility.md")
HEAD = """# What of TGI works here

Written by `python -m docs.compatibility`, which sends every field of `tests/compatibility.py` to a server, and parses
every flag, to see what becomes of it (`tests/observed.py`). A test does the same, and compares.

- honoured: the answer, or what the engine is asked to do, changes when the field is sent; a flag changes the settings
- ignored: nothing changes; a flag that is ignored says so when it is given
- refused: an error that names the field or the flag

## Two dialects of a chat stream

TGI's clients need `role` in every delta, and the `id` of a call in every part of it; so these are there, for everyone.
OpenAI's SDKs join what they are told twice ("assistantassistant"). They name themselves by the header
`X-Stainless-Lang`; a request that has it, with any value, gets `role` only in the first delta of each choice and `id`
only in the first part of each call, as OpenAI sends them. Ids of calls are TGI's numbers, counted on from those of the
conversation; for OpenAI's SDKs, after other ids than numbers, and where the model's template wants it so (Mistral's),
they are nine random letters and digits.
"""


async def page() -> str:
    """The whole page; it takes a server and some seconds."""
    parts = [HEAD, _table("Routes", ("route", "note"), [(f"`{m} {path}`", note) for m, path, note in ROUTES])]
    for title, path, fields in (
        ("Parameters of TGI's own routes", "/generate", PARAMETERS),
        ("Fields of /v1/chat/completions", "/v1/chat/completions", CHAT),
        ("Fields of /v1/completions", "/v1/completions", COMPLETIONS),
    ):
        states = await all_fields(path, fields)
        rows = [(f"`{one.name}`", state, one.note) for one, state in zip(fields, states, strict=True)]
        parts.append(_table(title, ("field", "state", "note"), rows))
    parts.append(_table("Flags of the launcher", ("flag", "variable", "default", "state", "note"), map(_flag, FLAGS)))
    return "\n".join(parts)


def _flag(flag: Flag) -> tuple[str, ...]:
    state, refused = flag_state(flag)
    own = default(flag)
    notes = [f"default of TGI: `{flag.default}`; {flag.why}"] if own != flag.default else [flag.why] if flag.why else []
    option = next(one for one in all_options() if f"--{flag.name}" in one.opts)
    if isinstance(option, Setting) and option.details.note:
        notes.append(option.details.note)
    if refused and len(flag.values) > 1:
        notes.append("refused: " + ", ".join(f"`{value}`" for value in refused))
    shown = "" if own is None else "off" if own is False else f"`{own}`"
    return f"`--{flag.name}`", f"`{flag.variable}`", shown, state, "; ".join(notes)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    return "\n".join([f"## {title}", "", lines[0], "|---" * len(columns) + "|", *lines[1:], ""])


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(page()), encoding="utf-8")
