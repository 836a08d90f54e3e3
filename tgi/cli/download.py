"""`tgi download`, and TGI's `download-weights`: fetch a model's files and print where they are."""

from __future__ import annotations

import sys
from typing import Any

import click

from tgi import log
from tgi.cli.console import colours, talk, warn
from tgi.cli.options import SettingsCommand, options, read_config
from tgi.config import Model, Telemetry
from tgi.errors import ConfigError

SUMMARY = """Fetch a model's files, unless they are here already, and print where they are.

MODEL_ID is a hub id; without it, SmolLM2-135M-Instruct. The path is the only line on stdout. Running it again costs
nothing; with HF_HUB_OFFLINE=1 only the cache is searched.
"""
WEIGHTS = SUMMARY.replace("MODEL_ID is a hub id;", "TGI's name of `tgi download`. MODEL_ID is a hub id;")
FIELDS = (
    "revision",
    "huggingface_hub_cache",
    "weights_cache_override",
    "trust_remote_code",
    "json_output",
    "log_level",
)


def _run(model_id: str | None, extension: str = ".safetensors", merge_lora: bool = False,
         logger_level: str | None = None, **_: Any) -> None:  # fmt: skip
    if extension != ".safetensors":
        raise ConfigError(
            f"`--extension {extension}`: only .safetensors can be asked for this way",
            hint="leave the flag out; a .gguf file is named in the model id: `owner/name/file.gguf`",
        )
    if merge_lora:
        raise ConfigError("`--merge-lora` is not available yet", hint="merge the adapter into the model first")
    overrides = {"model_id": model_id, **({"log_level": logger_level} if logger_level else {})}
    config, warnings = read_config(click.get_current_context(), **overrides)
    telemetry = config.telemetry
    log.configure(json_lines=telemetry.json_output, level=telemetry.log_level, colour=colours(sys.stderr))
    for warning in warnings:
        warn(warning)
    # Imported late: help must not wait for the hub's library and rich.
    from tgi.cli.environment import hub_settings  # noqa: PLC0415
    from tgi.cli.progress import download_progress  # noqa: PLC0415
    from tgi.hub.download import locate  # noqa: PLC0415

    with download_progress(talk()) as progress:
        files = locate(config.model, environment=hub_settings(), progress=progress)
    click.echo(files.path)


def _parameters(*extra: click.Parameter) -> list[click.Parameter]:
    argument = click.Argument(["model_id"], metavar="[MODEL_ID]", required=False, envvar="MODEL_ID")
    return [argument, *options(Model, FIELDS), *options(Telemetry, FIELDS), *extra]


download = SettingsCommand(
    "download", params=_parameters(), callback=_run, help=SUMMARY,
    examples=("tgi download", "tgi download HuggingFaceTB/SmolLM2-135M-Instruct --revision main"),
)  # fmt: skip
download_weights = SettingsCommand(
    "download-weights",
    params=_parameters(
        click.Option(["--extension"], default=".safetensors", metavar="TEXT", help="only .safetensors works"),
        click.Option(["--auto-convert/--no-auto-convert"], default=True, expose_value=False,
                     help="changes nothing: pickled weights are refused, never converted"),
        click.Option(["--merge-lora/--no-merge-lora"], default=False, help="refused: not available yet"),
        click.Option(["--logger-level"], metavar="LEVEL", help="debug, info, warn or error"),
    ),
    callback=_run, help=WEIGHTS,
    examples=("text-generation-server download-weights HuggingFaceTB/SmolLM2-135M-Instruct",),
)  # fmt: skip
