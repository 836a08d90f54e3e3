"""Writes docs/cli.md from tgi/config.py: `python docs/generate.py`. A test compares, so the page cannot grow stale."""

from __future__ import annotations

from pathlib import Path

from tgi.cli.exit_codes import EXIT_CODES
from tgi.cli.options import NO_EFFECT, NOT_YET, Setting, all_options, default_text

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Flags and variables of `tgi serve`

Written by `python docs/generate.py` from `tgi/config.py`; change that file, not this page.

A flag wins over its variable, which wins over `tgi.toml` (in the current folder, then in the user's configuration
folder; settings are named as the flags, such as `max-total-tokens = 4096`), which wins over the default.
`tgi config show` tells which won. An empty variable counts as unset. Booleans are flags without a value (`--no-...`
takes one back); their variables are `true`, `false`, `1`, `0`, `yes` or `no`. Underscores are accepted where flags have
hyphens.
"""
LAST = (NO_EFFECT, NOT_YET)


def page() -> str:
    """The whole page."""
    blocks: dict[str, list[str]] = {}
    for option in all_options():
        if isinstance(option, Setting) and not option.hidden:
            blocks.setdefault(option.title, []).append(_row(option))
    titles = sorted(blocks, key=lambda title: LAST.index(title) if title in LAST else -1)
    head = "| flag | variable | default | meaning |\n|---|---|---|---|"
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    end = f"## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}\n"
    return "\n".join([HEAD, *("\n".join([f"## {title}", "", head, *blocks[title], ""]) for title in titles), end])


def _row(option: Setting) -> str:
    opposites = option.secondary_opts if option.default else []
    names = ", ".join(f"`{name}`" for name in (*option.opts, *opposites, *option.details.aliases))
    default = f"`{default_text(option.default)}`" if default_text(option.default) else ""
    choices = f" (one of {', '.join(f'`{choice}`' for choice in option.details.choices)})"
    meaning = option.details.help + (choices if option.details.choices else "")
    if option.details.note:
        meaning = f"{meaning}: {option.details.note}"
    unit = f" {option.details.unit}" if default and option.details.unit else ""
    return f"| {names} | `{option.envvar}` | {default}{unit} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
