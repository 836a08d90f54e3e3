"""`tgi print-schema`: the description of the HTTP interface, for generators of clients. No model is needed."""

from __future__ import annotations

import json

import click

from tgi.cli.options import SettingsCommand
from tgi.config import Http

SUMMARY = """Print the description of the HTTP interface as OpenAPI 3.1.

It is what a running server answers at /api-doc/openapi.json, and shows at /docs. No model is loaded.
"""


def _run() -> None:
    # Imported late: help must not wait for the server.
    from tgi.server.app import routes  # noqa: PLC0415
    from tgi.server.openapi import document  # noqa: PLC0415

    click.echo(json.dumps(document(routes(Http())), indent=2))


print_schema = SettingsCommand(
    "print-schema", callback=_run, help=SUMMARY, examples=("tgi print-schema > openapi.json",)
)
