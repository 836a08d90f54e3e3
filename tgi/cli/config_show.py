"""`tgi config show`: every setting, its value, and where the value comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tgi.cli import settings_file
from tgi.cli.main import HELP, Entry, LazyGroup
from tgi.cli.options import Alias, Setting, SettingsCommand, all_options, merge_aliases

SUMMARY = """Show every setting, its value, and where the value comes from.

A flag wins over the environment, which wins over tgi.toml (in this folder, then in the user's configuration folder),
which wins over the default. Takes the flags of `tgi serve`, so that a command line can be tried. Secrets are masked.
"""
SECRETS = ("api_key", "ngrok_authtoken")
MASK = "***"
GROUP_HELP = "Look at the settings: what they are, and where they come from."


def rows(context: click.Context) -> dict[str, dict[str, Any]]:
    """Every setting by its flag's name: value, source, variable and, for a file, its path."""
    merge_aliases(context)
    found: dict[str, dict[str, Any]] = {}
    for option in context.command.params:
        if isinstance(option, Alias) or not isinstance(option, Setting) or option.details.hidden:
            continue
        name = option.name or ""
        source = context.get_parameter_source(name) or ParameterSource.DEFAULT
        row = {"value": _plain(context.params[name]), "source": _SOURCES[source], "variable": option.envvar}
        if name in SECRETS and row["value"] is not None:
            row["value"] = MASK
        if source is ParameterSource.DEFAULT_MAP:
            row["file"] = str(context.meta[settings_file.SOURCES][name])
        found[name.replace("_", "-")] = row
    return found


_SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
    ParameterSource.PROMPT: "prompt",
}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _run(as_json: bool, **_: Any) -> None:
    found = rows(click.get_current_context())
    if as_json:
        click.echo(json.dumps(found))
        return
    lines = [(name, _text(row["value"]), _origin(row)) for name, row in found.items()]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for name, value, origin in lines:
        click.echo(f"{name:<{widths[0]}}  {value:<{min(40, widths[1])}}  {origin}".rstrip())


def _text(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _origin(row: dict[str, Any]) -> str:
    details = {"environment": row["variable"], "file": row.get("file")}.get(row["source"])
    return f"{row['source']} {details}" if details else row["source"]


show = SettingsCommand(
    "show", params=[*all_options(), click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object")],
    callback=_run, help=SUMMARY, examples=("tgi config show", "PORT=8080 tgi config show --max-best-of 4 --json"),
)  # fmt: skip
config = LazyGroup(
    "config", {"show": Entry("show every setting, its value and its source", HELP, "tgi.cli.config_show:show")},
    help=GROUP_HELP, examples=("tgi config show", "tgi config show --json"),
)  # fmt: skip
