"""`tgi serve`, and the names TGI's scripts have for it. Only the command line is read here; `startup` does the rest."""

from __future__ import annotations

import sys
from typing import Any

import click

from tgi import log
from tgi.cli.console import colours, greet
from tgi.cli.options import SettingsCommand, all_options, read_config, verbosity, verbosity_options
from tgi.config import Config

SUMMARY = """Serve a model over HTTP: TGI's API and OpenAI's chat API.

Without --model-id, serves SmolLM2-135M-Instruct, which is fetched once and kept. Every flag can be set in the
environment instead, under the name shown; a flag wins over the environment. Ctrl-C, or SIGTERM, lets running requests
finish.
"""
SERVER = """Serve MODEL_ID over HTTP, under the name of TGI's model server.

TGI started this program behind its router; here it is `tgi serve --model-id MODEL_ID`, HTTP included.
"""
EXAMPLES = (
    "tgi serve",
    "tgi serve --model-id ./model.gguf --port 8080",
    "tgi serve --model-id HuggingFaceTB/SmolLM2-135M-Instruct --quantize int8",
    "MODEL_ID=./model.gguf PORT=80 tgi serve --json-output",
)


def _run(**values: Any) -> None:
    context = click.get_current_context()
    config, warnings = settings(context, values)
    greet(json_lines=config.telemetry.json_output, quiet=verbosity(context) < 0)
    from tgi.cli.startup import run  # noqa: PLC0415  (the server's imports: help must not wait for them)

    context.exit(run(config, warnings, verbosity=verbosity(context)))


def settings(context: click.Context, values: dict[str, Any]) -> tuple[Config, list[str]]:
    """What a parsed command line asks for, and warnings; log lines then go where it says."""
    from tgi.cli.environment import vertex_port  # noqa: PLC0415  (as below)

    # Vertex AI tells the port its own way, and means it whatever else is said.
    overrides: dict[str, Any] = {} if (port := vertex_port()) is None else {"port": port}
    if "model" in values:  # text-generation-server's own form
        overrides["model_id"] = values["model"]
        overrides["sharded"] = values["split"]
        if values["logger_level"]:
            overrides["log_level"] = values["logger_level"]
    config, warnings = read_config(context, **overrides)
    configure_log(config)
    return config, warnings


def configure_log(config: Config) -> None:
    """Send this process's log lines where the settings say."""
    telemetry = config.telemetry
    log.configure(json_lines=telemetry.json_output, level=telemetry.log_level, colour=colours(sys.stderr))


def _positional_options() -> list[click.Parameter]:
    """All settings, but the model is an argument, and `--sharded` takes no value, as in text-generation-server."""
    kept = [option for option in all_options() if option.name not in ("model_id", "sharded", "log_level")]
    sharded = next(option for option in all_options() if option.name == "sharded")
    return [
        click.Argument(["model"], metavar="MODEL_ID"),
        *kept,
        *verbosity_options(),
        click.Option(["--sharded/--no-sharded", "split"], default=None, help=sharded.help),
        click.Option(["--logger-level"], metavar="LEVEL", help="debug, info, warn or error"),
        click.Option(
            ["--uds-path"], metavar="PATH", expose_value=False, help="changes nothing: there is no socket file"
        ),
    ]


serve = SettingsCommand(
    "serve", params=[*all_options(), *verbosity_options()], callback=_run, help=SUMMARY, examples=EXAMPLES
)
serve_positional = SettingsCommand(
    "serve", params=_positional_options(), callback=_run, help=SERVER,
    examples=("text-generation-server serve ./model.gguf --json-output",),
)  # fmt: skip
