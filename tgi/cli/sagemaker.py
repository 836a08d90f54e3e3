"""`tgi sagemaker`: TGI's entry script for SageMaker, which names settings its own way and calls on port 8080."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from tgi.cli.launch import launch
from tgi.cli.options import SettingsCommand
from tgi.errors import ConfigError

PORT = 8080
VARIABLES = {
    "HF_MODEL_ID": "MODEL_ID",
    "HF_MODEL_REVISION": "REVISION",
    "SM_NUM_GPUS": "NUM_SHARD",
    "HF_MODEL_QUANTIZE": "QUANTIZE",
    "HF_MODEL_TRUST_REMOTE_CODE": "TRUST_REMOTE_CODE",
}
SUMMARY = """Serve a model as a SageMaker endpoint does, on port 8080.

The model is named by HF_MODEL_ID; HF_MODEL_REVISION, SM_NUM_GPUS, HF_MODEL_QUANTIZE and HF_MODEL_TRUST_REMOTE_CODE are
read too. Everything else is set as for `tgi launch`. The word `serve`, which SageMaker adds, is ignored.
"""


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `tgi launch` that SageMaker's stand for. Raises: ConfigError without HF_MODEL_ID."""
    if not environment.get("HF_MODEL_ID", "").strip():
        raise ConfigError("`HF_MODEL_ID` is not set", hint="set it to the model to serve, for example in the endpoint")
    return {ours: environment[theirs] for theirs, ours in VARIABLES.items() if environment.get(theirs, "").strip()}


def _run(arguments: tuple[str, ...]) -> None:
    os.environ.update(settings(os.environ))
    words = arguments[1:] if arguments[:1] == ("serve",) else arguments
    context = click.get_current_context()
    result = launch.main(["--port", str(PORT), *words], prog_name=context.command_path, standalone_mode=False)
    context.exit(result if isinstance(result, int) else 0)


sagemaker = SettingsCommand(
    "sagemaker", params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="[FLAGS]...")],
    callback=_run, help=SUMMARY, examples=("HF_MODEL_ID=HuggingFaceTB/SmolLM2-135M-Instruct tgi sagemaker",),
)  # fmt: skip
sagemaker.context_settings.update(ignore_unknown_options=True, allow_interspersed_args=False)
