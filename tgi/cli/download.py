"""`tgi download`, and TGI's `download-weights`: fetch a model's files and print where they are."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tgi import log
from tgi.cli.console import INTERRUPTED, colours, talk, warn
from tgi.cli.models import complete_model
from tgi.cli.options import SettingsCommand, options, read_config
from tgi.config import Config, Model, Telemetry
from tgi.errors import ConfigError, TgiError

if TYPE_CHECKING:
    from tgi.cli.progress import Events
    from tgi.hub.fetch import Fetched, Wish
    from tgi.hub.selection import Plan
    from tgi.hub.watch import Watcher

SUMMARY = """Fetch a model's files, unless they are here already, and print where they are.

MODEL_ID is a hub id, `owner/name@revision`, `owner/name/file.gguf` or a local path; without it,
SmolLM2-135M-Instruct. The path is the only line on stdout. Every file is compared with the checksum of the hub. Ctrl-C
keeps what is here: the same command goes on from there. With HF_HUB_OFFLINE=1 only the cache is searched.
"""
EXAMPLES = (
    "tgi download",
    "tgi download HuggingFaceTB/SmolLM2-135M-Instruct --dry-run",
    "tgi download owner/name@v1.0 --lock      # note every file in tgi.lock",
    "tgi download owner/name --locked         # the same files, or nothing",
    "tgi download owner/name --json | jq .    # events for programs",
)
FIELDS = (
    "revision",
    "huggingface_hub_cache",
    "weights_cache_override",
    "locked",
    "lock_file",
    "trust_remote_code",
    "json_output",
    "log_level",
)


class DownloadInterrupted(TgiError):
    """Ctrl-C during a download: nothing is lost. Exit code 130."""

    exit_code = INTERRUPTED


def _run(extension: str, convert: bool, merge_lora: bool, logger_level: str | None, lock: bool, dry_run: bool,
         as_json: bool, show_progress: bool, **values: Any) -> None:  # fmt: skip
    if extension != ".safetensors":
        raise ConfigError(
            f"`--extension {extension}`: only .safetensors can be asked for this way",
            hint="`--convert` makes them of .bin and .pt files; a .gguf file is named in the model id: "
            "`owner/name/file.gguf`",
        )
    if values["model_id"] and values["model_option"] not in (None, values["model_id"]):
        raise ConfigError(f"`{values['model_id']}` and `--model-id {values['model_option']}` name two models",
                          hint="give one of them")  # fmt: skip
    overrides = {"model_id": values["model_id"] or values["model_option"]}
    if logger_level:
        overrides["log_level"] = logger_level
    config, warnings = read_config(click.get_current_context(), **overrides)
    if lock and config.model.locked:
        raise ConfigError("`--lock` writes the lock file that `--locked` checks", hint="give one of them")
    for warning in warnings:
        warn(warning)
    telemetry = config.telemetry
    log.configure(json_lines=telemetry.json_output, level=telemetry.log_level, colour=colours(sys.stderr))
    from tgi.cli.progress import Events  # noqa: PLC0415  (help must not wait for the hub's library)
    from tgi.hub.fetch import Wish  # noqa: PLC0415

    events = Events(click.echo) if as_json else None
    wish = Wish(convert=convert, merge_lora=merge_lora)
    try:
        if dry_run:
            _show_plan(config.model, wish, events)
        else:
            _download(config, wish, events, lock=lock, draw=show_progress)
    except TgiError as error:
        if events is not None:
            events.tell("error", message=error.message, hint=error.hint, exit_code=error.exit_code)
        raise


def _download(config: Config, wish: Wish, events: Events | None, *, lock: bool, draw: bool) -> None:
    from tgi.cli.environment import hub_settings  # noqa: PLC0415  (as above)
    from tgi.cli.progress import download_progress  # noqa: PLC0415
    from tgi.hub.fetch import fetch  # noqa: PLC0415

    settings, started = hub_settings(), time.monotonic()
    try:
        with download_progress(talk(), draw=draw and events is None) as shown:
            watcher = events or shown
            fetched = fetch(config.model, wish, environment=settings, watcher=watcher)
            written = _write_locks(config.model, fetched, watcher) if lock else None
    except KeyboardInterrupt as error:
        named = config.model.model_id or ""
        raise DownloadInterrupted("interrupted; what is here already is kept",
                                  hint=f"run `{f'tgi download {named}'.strip()}` again to go on from there",
                                  ) from error  # fmt: skip
    _finish(fetched, written, events, time.monotonic() - started)


def _finish(fetched: Fetched, written: Path | None, events: Events | None, took_s: float) -> None:
    """Say what is here now."""
    from tgi.cli.progress import size  # noqa: PLC0415  (as above)
    from tgi.hub.lock import paths_of  # noqa: PLC0415

    files = fetched.files
    for name in fetched.lacks:
        warn(f"`{files.model_id}` has no {name}: `tgi serve` cannot serve it as it is")
    found = paths_of(files)
    total = sum(path.stat().st_size for _, path in found)
    if events is not None:
        events.tell("present" if fetched.was_here else "done", model_id=files.model_id, commit=files.revision,
                    path=str(files.path), num_files=len(found), total_bytes=total, seconds=round(took_s, 3),
                    base=fetched.base.model_id if fetched.base else None, made=list(fetched.made),
                    lock_file=str(written) if written else None)  # fmt: skip
        return
    say = talk()
    head = "already present" if fetched.was_here else f"done in {took_s:.1f} s"
    count = f"{len(found)} file{'s' if len(found) != 1 else ''}"
    say.print(f"{head}: {files.model_id}, {count}, {size(total)}", markup=False)
    if fetched.base is not None:
        say.print(f"its base: {fetched.base.model_id}, {fetched.base.path}", markup=False)
    if fetched.made:
        say.print(f"written: {', '.join(fetched.made)}", markup=False)
    if written is not None:
        say.print(f"locked: {written}", markup=False)
    click.echo(files.path)


def _write_locks(model: Model, fetched: Fetched, watcher: Watcher) -> Path:
    """Note the files of the model, and of its base, in the lock file."""
    from tgi.cli.environment import hub_settings  # noqa: PLC0415  (as above)
    from tgi.hub.download import lock_path, resolved  # noqa: PLC0415
    from tgi.hub.lock import measure, write_lock  # noqa: PLC0415

    path = lock_path(model)
    for files in filter(None, (fetched.base, fetched.files)):
        revision = (resolved(model).revision or "main") if files.revision else None
        write_lock(path, files.model_id, measure(files, revision, watcher, hub_settings().digests))
    return path


def _show_plan(model: Model, wish: Wish, events: Events | None) -> None:
    from tgi.cli.environment import hub_settings  # noqa: PLC0415  (as above)
    from tgi.cli.progress import plan_facts  # noqa: PLC0415
    from tgi.hub.fetch import make_plan  # noqa: PLC0415

    plan = make_plan(model, wish, environment=hub_settings())
    if events is not None:
        events.tell("plan", **plan_facts(plan), dry_run=True)
    else:
        click.echo(_table(plan))


def _table(plan: Plan) -> str:
    """The plan for people: a line a file, and the sums."""
    from tgi.cli.progress import percent, size  # noqa: PLC0415  (as above)

    def state(present: int, whole: int) -> str:
        return "here" if present >= whole else f"{percent(present, whole)} % here" if present else "to download"

    at = f" @ {plan.commit}" if plan.commit else ""
    lines = [f"{plan.model_id}{at}"]
    lines += [f"  {size(file.size):>9}  {state(file.present, file.size):<11}  {file.path}" for file in plan.files]
    return "\n".join([*lines, f"  {size(plan.total_bytes):>9}  in {len(plan.files)} files, "
                             f"{size(plan.missing_bytes)} to download"])  # fmt: skip


def _parameters() -> list[click.Parameter]:
    argument = click.Argument(["model_id"], metavar="[MODEL_ID]", required=False, envvar="MODEL_ID",
                              shell_complete=complete_model)  # fmt: skip
    own = [
        click.Option(["--convert"], is_flag=True,
                     help="make safetensors of .bin and .pt weights, in a process without network"),
        click.Option(["--merge-lora/--no-merge-lora"], default=False, help="merge a LoRA adapter into its base"),
        click.Option(["--lock"], is_flag=True, help="write or update the lock file: every file by its sha256"),
        click.Option(["--dry-run"], is_flag=True, help="list files and sizes; fetch nothing"),
        click.Option(["--json", "as_json"], is_flag=True, help="one JSON event a line on stdout"),
        click.Option(["--progress/--no-progress", "show_progress"], default=True, help="show how far it is"),
        click.Option(["--model-id", "model_option"], hidden=True, shell_complete=complete_model),
        click.Option(["--extension"], default=".safetensors", metavar="TEXT", help="only .safetensors works"),
        click.Option(["--auto-convert/--no-auto-convert"], default=True, expose_value=False,
                     help="changes nothing: only --convert converts"),
        click.Option(["--logger-level"], metavar="LEVEL", help="debug, info, warn or error"),
    ]  # fmt: skip
    return [argument, *options(Model, FIELDS), *options(Telemetry, FIELDS), *own]


download = SettingsCommand("download", params=_parameters(), callback=_run, help=SUMMARY, examples=EXAMPLES)
download_weights = SettingsCommand(
    "download-weights", params=_parameters(), callback=_run, help=f"TGI's name of `tgi download`. {SUMMARY}",
    examples=("text-generation-server download-weights HuggingFaceTB/SmolLM2-135M-Instruct",),
)  # fmt: skip
