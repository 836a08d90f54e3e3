"""`tgi cache ls`, `rm`, `verify`: the models kept on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tgi.cli.console import UsageFault, nearest, talk
from tgi.cli.main import Entry, LazyGroup
from tgi.cli.models import complete_model
from tgi.cli.options import SettingsCommand, options
from tgi.config import Model
from tgi.errors import ModelError, TgiError

if TYPE_CHECKING:
    from tgi.hub.cache import CachedModel, Finding

COMMANDS = {
    "ls": Entry("list the models that are here: size, revision, last use", "Cache", "tgi.cli.cache:ls"),
    "rm": Entry("remove models", "Cache", "tgi.cli.cache:rm"),
    "verify": Entry("read every file again, and name those that are damaged", "Cache", "tgi.cli.cache:verify"),
}
LS = """List the models on this machine, in the hub's cache and in tgi's own.

A model may have several revisions, which share files: the sum counts these once.
"""
RM = """Remove models from this machine, after asking.

MODEL is an id, or `id@revision` for one revision: a branch, or the first characters of a commit.
"""
VERIFY = """Read every file of the models again, and compare it with its checksum.

MODEL is as for `tgi cache rm`; without it, all models. Damaged and missing files are named; exit code 16 then.
"""


def _ls(huggingface_hub_cache: Path | None, as_json: bool) -> None:
    cache, models = _scan(huggingface_hub_cache)
    total = _unique_size(models)
    if as_json:
        click.echo(json.dumps({"cache": str(cache), "total_bytes": total, "models": [_facts(m) for m in models]}))
        return
    from tgi.cli.progress import size  # noqa: PLC0415  (rich: help need not wait for it)

    if not models:
        talk().print(f"no models in {cache}", markup=False, style=None)
        return
    rows = [("MODEL", "REVISION", "SIZE", "LAST USE", "STATE")]
    rows += [(m.model_id, _revision(m), size(m.size), _ago(m.last_used), m.state) for m in models]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for name, revision, amount, used, state in rows:
        click.echo(f"{name:<{widths[0]}}  {revision:<{widths[1]}}  {amount:>{widths[2]}}  {used:<{widths[3]}}  {state}")
    click.echo(f"{_count(models)}, {size(total)}")


def _rm(models: tuple[str, ...], yes: bool, as_json: bool, huggingface_hub_cache: Path | None) -> None:
    from tgi.cli.progress import size  # noqa: PLC0415  (as above)
    from tgi.hub.cache import remove  # noqa: PLC0415

    cache, known = _scan(huggingface_hub_cache)
    chosen = _choose(models, known)
    if not yes:
        for model in chosen:
            click.echo(f"{model.model_id}  {_revision(model)}  {size(model.size)}", err=True)
        try:
            agreed = click.confirm(f"remove {_count(chosen)}?", err=True)
        except click.Abort as error:
            raise TgiError("nothing was removed: there was no answer", hint="answer `y`, or give `--yes`") from error
        if not agreed:
            raise TgiError("nothing was removed", hint="answer `y`, or give `--yes`, to remove it")
    freed = remove(chosen, cache)
    if as_json:
        click.echo(json.dumps({"removed": [_facts(model) for model in chosen], "freed_bytes": freed}))
    else:
        click.echo(f"removed {_count(chosen)}, {size(freed)} freed")


def _verify(models: tuple[str, ...], as_json: bool, show_progress: bool, huggingface_hub_cache: Path | None) -> None:
    from tgi.cli.environment import hub_settings  # noqa: PLC0415  (as above)
    from tgi.cli.progress import download_progress  # noqa: PLC0415
    from tgi.hub.cache import verify  # noqa: PLC0415

    _, known = _scan(huggingface_hub_cache)
    chosen = _choose(models, known) if models else known
    settings, findings = hub_settings(), []
    digests = settings.digests
    with download_progress(talk(), draw=show_progress and not as_json and talk().is_terminal) as watcher:
        for model in chosen:
            for finding in verify(model, settings, watcher, digests):
                findings.append(finding)
                click.echo(json.dumps(_finding(finding)) if as_json else _line(finding))
    digests.save()
    bad = [finding for finding in findings if finding.status in ("corrupt", "missing")]
    if as_json:
        click.echo(json.dumps({"event": "done", "checked": len(findings), "bad": len(bad)}))
    else:
        click.echo(f"{len(findings)} files checked, {len(bad)} bad")
    if bad:
        first = bad[0]
        names = ", ".join(f"`{finding.name}`" for finding in bad[:4])
        raise ModelError(f"{len(bad)} files are damaged or missing: {names} of `{first.model.model_id}`",
                         hint=f"`tgi cache rm {first.model.model_id}`, then `tgi download {first.model.model_id}`",
                         exit_code=16)  # fmt: skip


def _scan(chosen: Path | None) -> tuple[Path, list[CachedModel]]:
    from tgi.cli.environment import hub_settings  # noqa: PLC0415  (as above)
    from tgi.hub.cache import scan  # noqa: PLC0415
    from tgi.hub.download import hub_cache  # noqa: PLC0415

    cache = hub_cache(Model(huggingface_hub_cache=chosen))
    return cache, scan(cache, hub_settings())


def _choose(asked: tuple[str, ...], known: list[CachedModel]) -> list[CachedModel]:
    """The revisions that were asked for. Raises: ModelError (exit 12) naming the nearest one for a model not here."""
    chosen: list[CachedModel] = []
    for text in asked:
        name, _, revision = text.partition("@")
        of_name = [model for model in known if model.model_id == name]
        if not of_name:
            near = nearest(name, {model.model_id for model in known})
            raise ModelError(f"`{name}` is not in the cache",
                             hint=f"did you mean `{near}`?" if near else "`tgi cache ls` lists what is",
                             exit_code=12)  # fmt: skip
        found = [m for m in of_name if not revision or revision in m.refs or (m.revision or "").startswith(revision)]
        if not found:
            raise ModelError(f"`{name}` has no revision `{revision}` in the cache",
                             hint="`tgi cache ls` lists those that are", exit_code=12)  # fmt: skip
        chosen += [model for model in found if model not in chosen]
    if not chosen:
        raise UsageFault("missing argument `MODEL`", hint="`tgi cache ls` lists what is in the cache")
    return chosen


def _facts(model: CachedModel) -> dict[str, Any]:
    used = model.last_used
    when = datetime.fromtimestamp(used, UTC).isoformat(timespec="seconds") if used is not None else None
    return asdict(model) | {"refs": list(model.refs), "last_used": when, "path": str(model.path)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "event": "file", "model_id": finding.model.model_id, "revision": finding.model.revision, "path": finding.name,
        "status": finding.status, "expected": finding.expected, "found": finding.found,
    }  # fmt: skip


def _line(finding: Finding) -> str:
    text = f"{finding.status:<9}  {finding.model.model_id}  {finding.name}"
    return f"{text}  expected {finding.expected}, found {finding.found}" if finding.status == "corrupt" else text


def _revision(model: CachedModel) -> str:
    commit = (model.revision or "-")[:12]
    return f"{', '.join(model.refs)} ({commit})" if model.refs else commit


def _unique_size(models: list[CachedModel]) -> int:
    """What all revisions take together, where they share files."""
    seen: dict[tuple[int, int], int] = {}
    for model in models:
        for path in model.path.rglob("*"):
            if path.is_file():
                status = path.stat()
                seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def _count(models: list[CachedModel]) -> str:
    return f"{len(models)} revision{'s' if len(models) != 1 else ''}"


def _ago(moment: float | None) -> str:
    if moment is None:
        return "-"
    seconds = max(0.0, datetime.now().timestamp() - moment)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now"


def _command(name: str, help: str, callback: Callable[..., None], examples: tuple[str, ...],
             *extra: click.Parameter) -> SettingsCommand:  # fmt: skip
    parameters = [
        *extra,
        click.Option(["--json", "as_json"], is_flag=True, help="JSON on stdout: one object, or one a line"),
        *options(Model, ("huggingface_hub_cache",)),
    ]
    return SettingsCommand(name, params=parameters, callback=callback, help=help, examples=examples)


def _models(required: bool) -> click.Argument:
    return click.Argument(["models"], metavar="MODEL..." if required else "[MODEL]...", nargs=-1, required=required,
                          shell_complete=complete_model)  # fmt: skip


ls = _command("ls", LS, _ls, ("tgi cache ls", "tgi cache ls --json"))
rm = _command(
    "rm", RM, _rm, ("tgi cache rm owner/name", "tgi cache rm owner/name@refs/pr/1 --yes"), _models(True),
    click.Option(["--yes", "-y"], is_flag=True, help="do not ask"),
)  # fmt: skip
verify = _command(
    "verify", VERIFY, _verify, ("tgi cache verify", "tgi cache verify owner/name --json"), _models(False),
    click.Option(["--progress/--no-progress", "show_progress"], default=True, help="show how far it is"),
)  # fmt: skip
cache = LazyGroup(
    "cache", COMMANDS, help="See, check and remove the models kept on this machine.",
    examples=("tgi cache ls", "tgi cache verify", "tgi cache rm owner/name"),
)  # fmt: skip
