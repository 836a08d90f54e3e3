"""`tgi doctor`: looks at everything a server needs, and says what is missing and what to do about it."""

from __future__ import annotations

import json
from typing import Any

import click

from tgi.cli.options import SettingsCommand, options, read_config
from tgi.config import Http, Model

SUMMARY = """Check what could keep this machine from serving.

Looks at processor, kernels, memory, port, model, cache, network, token and versions. The exit code is 1 when
something would stop `tgi serve` with the same flags; a `warn` would not.
"""
FIELDS = {
    Model: ("model_id", "revision", "huggingface_hub_cache", "weights_cache_override"),
    Http: ("hostname", "port"),
}


def _run(as_json: bool, **_: Any) -> None:
    context = click.get_current_context()
    config, _warnings = read_config(context)
    from tgi.cli.checkup import FAIL, examine  # noqa: PLC0415  (help must not wait for what it looks at)

    found = []
    for finding in examine(config):
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.status:<5} {finding.name:<10} {finding.found}")
            if finding.hint and finding.status != "ok":
                click.echo(f"{'':<17}{finding.hint}")
    broken = [finding.name for finding in found if finding.status == FAIL]
    if as_json:
        checks = [{"name": f.name, "status": f.status, "found": f.found, "hint": f.hint} for f in found]
        click.echo(json.dumps({"ok": not broken, "checks": checks}))
    else:
        click.echo(f"this would stop `tgi serve`: {', '.join(broken)}" if broken else "nothing would stop `tgi serve`")
    context.exit(1 if broken else 0)


doctor = SettingsCommand(
    "doctor",
    params=[
        *(option for section, names in FIELDS.items() for option in options(section, names)),
        click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object"),
    ],
    callback=_run, help=SUMMARY, examples=("tgi doctor", "tgi doctor --port 8080 --json"),
)  # fmt: skip
