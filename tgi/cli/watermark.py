"""`tgi watermark detect`: whether a text carries the watermark of requests with `watermark: true`."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from tgi.cli.console import talk, warn
from tgi.cli.environment import hub_token
from tgi.cli.main import MODELS, Entry, LazyGroup
from tgi.cli.options import SettingsCommand, options, read_config
from tgi.config import Config, Limits, Model
from tgi.errors import ConfigError, ModelError

SUMMARY = """Tell whether a text was generated with the watermark.

TEXT is what was generated, without its prompt; without TEXT it is read from stdin. The model and
`--watermark-gamma` must be those it was generated with. From a z-score of 4 on a text counts as watermarked: one in
some 30,000 other texts reaches that. It takes some 50 tokens to be sure.
"""
FIELDS = ("model_id", "revision", "huggingface_hub_cache", "weights_cache_override", "tokenizer_config_path")


def _run(text: str | None, z_threshold: float, as_json: bool, **_: Any) -> None:
    config, warnings = read_config(click.get_current_context())
    for warning in warnings:
        warn(warning)
    # Imported late: help must not wait for the hub's library and numpy.
    from tgi.runner.watermark import detect as find  # noqa: PLC0415

    if text is None:
        text = sys.stdin.read()
    token_ids, vocab_size = _encode(config, text)
    if len(token_ids) < 2:
        raise ConfigError(f"a text of {len(token_ids)} tokens tells nothing", hint="give a longer text")
    gamma = config.limits.watermark_gamma
    found = find(token_ids, vocab_size=vocab_size, gamma=gamma)
    marked = found.z_score >= z_threshold
    if as_json:
        numbers = {name: getattr(found, name) for name in ("num_tokens", "num_green", "green_fraction")}
        scores = {"gamma": gamma, "z_score": found.z_score, "p_value": found.p_value, "watermarked": marked}
        click.echo(json.dumps(numbers | scores))
        return
    click.echo(f"tokens   {found.num_tokens} scored, {found.num_green} of them green")
    click.echo(f"green    {found.green_fraction:.1%}, where {gamma:.1%} is usual")
    click.echo(f"z-score  {found.z_score:.2f}, watermarked from {z_threshold:g} on (p-value {found.p_value:.2g})")
    click.echo(f"verdict  {'watermarked' if marked else 'not watermarked'}")


def _encode(config: Config, text: str) -> tuple[list[int], int]:
    """The tokens of a text, and the width of the model's logits. Raises: ModelError when the model is not to be had."""
    from tgi.checkpoint import open_checkpoint  # noqa: PLC0415  (as above)
    from tgi.cli.progress import download_progress  # noqa: PLC0415
    from tgi.hub.download import HubSettings, locate  # noqa: PLC0415
    from tgi.hub.tokenizer_files import load_tokenizer  # noqa: PLC0415

    with download_progress(talk()) as progress:
        files = locate(config.model, environment=HubSettings(token=hub_token()), progress=progress)
    tokenizer = load_tokenizer(files, config.model.tokenizer_config_path).tokenizer
    width = open_checkpoint(files.path).config.get("vocab_size")
    if not isinstance(width, int):
        raise ModelError("the model's configuration has no `vocab_size`", hint="check config.json", exit_code=16)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids, width


detect = SettingsCommand(
    "detect",
    params=[
        click.Argument(["text"], required=False),
        *options(Model, FIELDS),
        *options(Limits, ("watermark_gamma",)),
        click.Option(["--z-threshold"], type=click.FLOAT, default=4.0, show_default=True, metavar="X",
                     help="z-score from which a text counts as watermarked"),
        click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object"),
    ],
    callback=_run, help=SUMMARY,
    examples=("tgi watermark detect < answer.txt", "tgi watermark detect --model-id ./model.gguf --json \"Deep ...\""),
)  # fmt: skip
watermark = LazyGroup(
    "watermark",
    {"detect": Entry("tell whether a text was generated with it", MODELS, "tgi.cli.watermark:detect")},
    help="Find the watermark of requests with `watermark: true` (Kirchenbauer et al., 2023).",
    examples=("tgi watermark detect < answer.txt",),
)
