"""`tgi env`: what a bug report needs to know of the machine and the installation."""

from __future__ import annotations

import json

import click

from tgi.cli.options import SettingsCommand

SUMMARY = """Show versions, machine, GPU driver and settings of the environment.

Secrets are named, never shown. `tgi serve --env` logs the same at its start.
"""


def _run(as_json: bool) -> None:
    from tgi.cli.environment import runtime_report  # noqa: PLC0415  (help must not wait for the hub's library)

    report = runtime_report()
    if as_json:
        click.echo(json.dumps(dict(report)))
        return
    width = max(len(name) for name, _ in report)
    for name, value in report:
        click.echo(f"{name:<{width}}  {value}")


env = SettingsCommand(
    "env",
    params=[click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object of names and texts")],
    callback=_run,
    help=SUMMARY,
    examples=("tgi env", "tgi env --json"),
)
