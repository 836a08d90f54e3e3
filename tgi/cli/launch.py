"""`tgi launch`: TGI's launcher. It checks everything, fetches the model, serves it, and starts again what died.

Each phase is a child process (`supervision`); the launcher itself loads neither torch nor the server, so that nothing
but a signal ends it early. Exit codes are TGI's (spec/cli.md section 6): 0 after a signal, 1 for every failure.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from tgi.cli.console import greet, say
from tgi.cli.options import SettingsCommand, all_options, verbosity, verbosity_options
from tgi.cli.serve import EXAMPLES, configure_log, settings
from tgi.cli.supervision import Announce, Ended, Guardian, Restarts
from tgi.config import Config

logger = logging.getLogger("tgi.cli")

SUMMARY = """Serve a model over HTTP as TGI's launcher does: download, then serve, and restart what dies.

Takes every flag and variable of text-generation-launcher. Arguments are checked before anything starts. A server that
is killed is started again, after a pause that grows; one that cannot start, or dies again and again, ends the launcher
with exit code 1. Ctrl-C, or SIGTERM, lets running requests finish and exits with 0; a second one ends at once.
"""
FETCHING_GRACE_S = 5.0  # what was fetched is kept whatever happens, so an end need not wait
CLOSING_S = 10.0  # for the server's own end, once its requests' time is over


def run(config: Config, warnings: Sequence[str], *, verbosity: int = 0) -> int:
    """Launch until a signal comes or nothing more can be done. Returns: the exit code of the process."""
    greet("tgi launch", json_lines=config.telemetry.json_output, quiet=verbosity < 0)
    # The port first: that it is taken should not be learnt after an hour of downloading.
    from tgi.server.ports import reserve  # noqa: PLC0415  (help must not wait for sockets)

    tell = Teller(config, verbosity)
    reserve(config.http.hostname, config.http.port).close()
    with Guardian(remind=lambda name, seconds: tell.line(f"  waiting   {name}: {seconds:.0f} s")) as guardian:
        if not _fetch(config, guardian, tell, verbosity):
            return 0 if guardian.stopping else 1
        restarts = Restarts()
        grace_s = config.http.graceful_termination_timeout + CLOSING_S
        while not guardian.stopping:
            ended = guardian.watch("server", partial(_serve, config, warnings, verbosity), grace_s=grace_s)
            if guardian.stopping:
                break
            delay_s = _verdict(ended, restarts, tell)
            if delay_s is None:
                return 1
            warnings = ()  # they were told
            guardian.pause(delay_s)
    return 0


class Teller:
    """The launcher's own lines: text on stderr, or log records with `--json-output`."""

    def __init__(self, config: Config, verbosity: int) -> None:
        self._json = config.telemetry.json_output
        self._quiet = verbosity < 0

    def line(self, text: str) -> None:
        """How it goes."""
        if self._json:
            logger.info(text.strip())
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def fault(self, text: str) -> None:
        """What went wrong for good."""
        if self._json:
            logger.error(text)
        else:
            say("error", text, colour="31")

    def warning(self, text: str) -> None:
        """What went wrong, and is being mended."""
        if self._json:
            logger.warning(text)
        else:
            say("warning", text, colour="33")


def _fetch(config: Config, guardian: Guardian, tell: Teller, verbosity: int) -> bool:
    """Have the model's files on this machine. Returns: whether they are."""

    def job(announce: Announce) -> int:
        from tgi.cli import startup  # noqa: PLC0415  (only the child needs the hub's library)

        configure_log(config)  # its thread stayed behind in the launcher
        startup.leave_when_told()
        startup.fetch(config, verbosity)
        return 0

    ended = guardian.watch("download", job, grace_s=FETCHING_GRACE_S)
    if guardian.stopping:
        tell.line("stopped while the model was being fetched; what was fetched is kept")
    elif ended.code != 0:
        tell.fault(f"DownloadError: the download {ended.how}")
    return ended.code == 0 and not guardian.stopping


def _serve(config: Config, warnings: Sequence[str], verbosity: int, announce: Announce) -> int:
    """The server's child. The reasons of its choices are told: that is what a launcher is asked for."""
    configure_log(config)  # as above
    from tgi.cli.startup import run as serve  # noqa: PLC0415  (the server's imports)

    return serve(config, warnings, verbosity=verbosity or 1, announce=announce)


def _verdict(ended: Ended, restarts: Restarts, tell: Teller) -> float | None:
    """What follows from a server's end. Returns: seconds until the next start; None when there is none."""
    if ended.useful_s is None:
        tell.fault(f"ShardCannotStart: the server {ended.how} before it was ready")
    elif ended.code:
        tell.fault(f"ShardFailed: the server {ended.how}")
    elif (delay_s := restarts.delay_s(ended)) is None:
        tell.fault(f"WebserverFailed: the server {ended.how}, {restarts.fruitless} times in a row")
    else:
        tell.warning(f"the server {ended.how}; starting another one in {delay_s:.1f} s")
        return delay_s
    return None


def _run(**values: Any) -> None:
    context = click.get_current_context()
    config, warnings = settings(context, values)
    context.exit(run(config, warnings, verbosity=verbosity(context)))


launch = SettingsCommand(
    "launch", params=[*all_options(), *verbosity_options()], callback=_run, help=SUMMARY,
    examples=tuple(example.replace("tgi serve", "tgi launch") for example in EXAMPLES),
)  # fmt: skip
