"""`tgi plan`: what a model would take of this machine's memory, and the limits that would follow. Nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tgi.cli.console import report
from tgi.cli.options import SettingsCommand, options, read_config
from tgi.config import Batching, Config, Limits, Model
from tgi.errors import ModelError, TgiError

if TYPE_CHECKING:
    from tgi.hub.files import ModelFiles

SUMMARY = """Show what a model would take of this machine's memory, and the limits that follow.

Only headers are read: no weight is loaded, nothing is downloaded. What is shown is what `tgi serve` would report with
the same flags. The exit code is 17 when the model does not fit.
"""
FIELDS = {
    Model: (
        "model_id", "revision", "dtype", "disable_custom_kernels", "rope_scaling", "rope_factor",
        "tokenizer_config_path", "huggingface_hub_cache", "weights_cache_override",
    ),
    Limits: ("max_concurrent_requests", "max_input_tokens", "max_total_tokens"),
    Batching: (
        "max_batch_prefill_tokens", "max_batch_total_tokens", "max_batch_size", "cuda_memory_fraction",
        "prefix_caching", "block_size",
    ),
}  # fmt: skip
OUT_OF_MEMORY = 17


def make_plan(config: Config, files: ModelFiles) -> dict[str, Any]:
    """The plan under the keys of `--json`. Raises: TgiError, with code 17 for a model that does not fit."""
    # Imported late: help must not wait for tokenizers.
    from tgi.cli.aside import call_aside  # noqa: PLC0415
    from tgi.hub.tokenizer_files import load_tokenizer  # noqa: PLC0415

    found = call_aside("tgi.runner.planning:survey", config, files.path)
    limits, memory = config.limits, found["memory"]
    total = found["max_total_tokens"]
    longest = load_tokenizer(files, config.model.tokenizer_config_path).model_max_length
    if limits.max_total_tokens is None and longest is not None:
        total = min(total, longest)
    choices = memory.pop("choices")
    for choice in choices:
        if choice["name"] == "max-total-tokens" and choice["value"] != str(total):
            choice.update(value=str(total), reason="the tokenizer's model_max_length")
    reason = "as asked" if limits.max_input_tokens else "one less than max-total-tokens, so that there is an answer"
    longest_input = limits.max_input_tokens or total - 1
    choices.append({"name": "max-input-tokens", "value": str(longest_input), "reason": reason})
    spent = memory["weights"] + memory["activations"] + memory["kv_cache"]
    return {
        "model_id": files.model_id,
        "revision": files.revision,
        "path": str(files.path),
        **{name: found[name] for name in ("model_type", "dtype", "quantize", "device", "kernels")},
        "fits": True,
        "memory": memory | {"kv_token": memory["kv_block"] // found["block_size"], "total": spent},
        "kv_cache_tokens": found["num_blocks"] * found["block_size"],
        "limits": {
            "max_input_tokens": longest_input,
            "max_total_tokens": total,
            "max_batch_prefill_tokens": found["max_step_tokens"],
            "max_batch_total_tokens": found["num_blocks"] * found["block_size"],
            "max_batch_size": found["max_rows"],
            "max_concurrent_requests": limits.max_concurrent_requests,
        },
        "choices": choices,
    }


def present(model: Model) -> ModelFiles:
    """The model's files, where they are on this machine. Raises: ModelError (12) when they are not."""
    from huggingface_hub import constants  # noqa: PLC0415

    from tgi.cli.environment import hub_settings  # noqa: PLC0415
    from tgi.hub.download import DEFAULT_MODEL_ID, resolved  # noqa: PLC0415
    from tgi.hub.files import ModelFiles, find_cached, find_local, find_overridden  # noqa: PLC0415
    from tgi.hub.wheel import find_extracted  # noqa: PLC0415

    model, settings = resolved(model), hub_settings()
    cache = model.huggingface_hub_cache or Path(constants.HF_HUB_CACHE)
    if model.weights_cache_override is not None:
        return find_overridden(model.model_id, model.weights_cache_override)
    if model.model_id is not None:
        files = find_local(model.model_id) or find_cached(model.model_id, model.revision, cache)
    elif settings.packaged_default is not None and settings.packaged_default.is_file():
        path = settings.packaged_default
        files = ModelFiles(DEFAULT_MODEL_ID, None, path, path.parent)
    else:
        files = find_cached(DEFAULT_MODEL_ID, model.revision, cache)
        extracted = find_extracted(settings.default_wheel, settings.model_cache)
        if files is None and extracted is not None:
            files = ModelFiles(DEFAULT_MODEL_ID, None, extracted, extracted.parent)
    if files is None:
        name = model.model_id or DEFAULT_MODEL_ID
        raise ModelError(f"`{name}` is not on this machine", exit_code=12,
                         hint=f"fetch it first: tgi download {name}")  # fmt: skip
    return files


def _run(as_json: bool, **_: Any) -> None:
    context = click.get_current_context()
    config, _warnings = read_config(context)
    files = present(config.model)
    click.echo(f"reading the headers of {files.path} ...", err=True)
    try:
        plan = make_plan(config, files)
    except TgiError as error:
        if not as_json or error.exit_code != OUT_OF_MEMORY:
            raise
        click.echo(json.dumps({"model_id": files.model_id, "fits": False, "error": error.message, "hint": error.hint}))
        context.exit(report(error))
    click.echo(json.dumps(plan) if as_json else _page(plan))


def _page(plan: dict[str, Any]) -> str:
    """The plan for people."""
    from tgi.cli.progress import size  # noqa: PLC0415  (it draws bars too, with rich)

    memory = plan["memory"]
    quantize = f", {plan['quantize']}" if plan["quantize"] else ""
    kv = f"{size(memory['kv_cache'])}, {plan['kv_cache_tokens']:,} tokens of {memory['kv_token']:,} bytes"
    rows = [
        ("model", f"{plan['model_id']} ({plan['model_type']}, {plan['dtype']}{quantize})"),
        ("kernels", f"{plan['kernels']} on {plan['device']}"),
        ("weights", size(memory["weights"])),
        ("activations", f"{size(memory['activations'])}, the largest step's"),
        ("kv cache", kv),
        ("total", f"{size(memory['total'])} of {size(memory['available'])} that are free: it fits"),
        *((choice["name"], f"{choice['value']:<8} {choice['reason']}") for choice in plan["choices"]),
    ]
    return "\n".join(f"{name:<24}  {value}" for name, value in rows)


def _parameters() -> list[click.Parameter]:
    settings = [option for section, names in FIELDS.items() for option in options(section, names)]
    return [*settings, click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object")]


plan = SettingsCommand(
    "plan", params=_parameters(), callback=_run, help=SUMMARY,
    examples=("tgi plan --model-id ./model.gguf", "tgi plan --max-total-tokens 4096 --json"),
)  # fmt: skip
