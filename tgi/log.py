"""Log lines: text for people on stderr, or JSON lines for machines on stdout, as TGI writes them.

A record may carry `extra={"span": {"name": "generate", ...}}`: what it happened in, and facts worth searching for.
What `bind` tells of the current request, its id above all, is in every line written for it. No line quotes a client:
lengths and hashes stand for its words. Control characters never reach the output raw, so that no request can forge a
line or move a terminal's cursor, and a flood of one kind of message is cut short, so that none can fill a disk. A pipe
that nobody reads never holds up the program: lines that find no room are dropped, and counted (`Outlet`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from tgi.errors import ConfigError

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR"}  # TGI knows no others than DEBUG, INFO, WARN and ERROR
_COLOURS = {"DEBUG": "\x1b[34m", "INFO": "\x1b[32m", "WARN": "\x1b[33m", "ERROR": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_TGIS_TARGETS = ("text_generation_router", "text_generation_launcher", "text_generation_server")
_MOST_A_SECOND = 10  # of one kind, from WARN on
_MOST_WAITING = 1 << 20  # characters of lines that wait for a reader, beside what the pipe holds
_LAST_WORDS_S = 1.0  # how long the end of the program waits for that reader

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))


def configure(*, json_lines: bool = False, level: str = "info", colour: bool = False) -> None:
    """Send the log lines of the whole process to one place, in one format; earlier handlers are replaced.

    `json_lines` writes one JSON object a line to stdout, where TGI's users expect it; else text goes to stderr.
    `level` is a level for tgi (other libraries then speak from WARN on), or a filter list as TGI's `LOG_LEVEL`:
    `info,tgi.server=debug`, where a bare level is for everything.

    Raises: ConfigError for an unknown level.
    """
    handler = LineHandler(sys.stdout if json_lines else sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter(colour=colour))
    handler.addFilter(Flood(handler))
    thresholds = parse_filter(level)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(thresholds.pop("", logging.WARNING))
    for target, threshold in thresholds.items():
        logging.getLogger(target).setLevel(threshold)
    logging.captureWarnings(True)


def parse_filter(text: str) -> dict[str, int]:
    """Targets and their thresholds; the target "" is everything.

    Raises: ConfigError for an unknown level.
    """
    text = text.strip() or "info"
    if text.lower() in LEVELS:
        return {"tgi": LEVELS[text.lower()]}
    thresholds = {"tgi": logging.INFO}
    for part in filter(None, (part.strip() for part in text.split(","))):
        target, given, level = part.rpartition("=")
        if level.lower() not in LEVELS:
            raise ConfigError(
                f"`LOG_LEVEL`: `{level}` is no log level",
                hint="use debug, info, warn or error, or a list such as `info,tgi.server=debug`",
            )
        if given:
            thresholds[_our_target(target)] = LEVELS[level.lower()]
        else:
            thresholds.update({"": LEVELS[level.lower()], "tgi": LEVELS[level.lower()]})
    return thresholds


def _our_target(target: str) -> str:
    """A target as TGI's users write it: `text_generation_router::server` is `tgi.server`."""
    for prefix in _TGIS_TARGETS:
        if target == prefix or target.startswith(f"{prefix}::"):
            target = target.replace(prefix, "tgi", 1)
    return target.replace("::", ".")


def bind(**facts: str) -> Token[Mapping[str, str]]:
    """Add facts to every line of this task, and of those it starts, until `unbind`."""
    return _bound.set({**_bound.get(), **facts})


def unbind(token: Token[Mapping[str, str]]) -> None:
    """Take back what the `bind` that gave this token added."""
    _bound.reset(token)


def bound() -> Mapping[str, str]:
    """The facts every line of this task carries."""
    return _bound.get()


def unexpected(logger: logging.Logger, what: str, error: BaseException) -> None:
    """Report a bug met while serving a request, by its type and its place.

    An exception's own words may be the client's, so they are for DEBUG only.
    """
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    logger.error("%s: %s", what, type(error).__qualname__, extra={"frames": frames})
    logger.debug("%s: %s", what, error)


class Outlet:
    """Writes lines to a descriptor in a thread of its own, which alone waits where there is nobody to read them.

    Lines that wait are bounded; what comes beyond is dropped, and the next line to be written tells how many were,
    in the words of `tell`. A closed descriptor drops everything.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], str], most_waiting: int = _MOST_WAITING) -> None:
        self.dropped = 0  # in all
        self._descriptor = descriptor
        self._tell = tell
        self._most = most_waiting
        self._lines: deque[str] = deque()
        self._characters = 0
        self._untold = 0
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Have a line written; returns at once."""
        with self._changed:
            if self._characters + len(line) > self._most:
                self.dropped += 1
                self._untold += 1
                return
            self._lines.append(self._told() + line)
            self._characters += len(self._lines[-1])
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is ending
                    self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until every line is written, but no longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._lines or self._untold or self._writing), timeout_s)

    def _told(self) -> str:
        told, self._untold = (self._tell(self._untold) if self._untold else ""), 0
        return told

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._untold)
                line = self._lines.popleft() if self._lines else self._told()
                self._characters = self._characters - len(line) if self._lines else 0
                self._writing = True
            self._write(line.encode("utf-8", "backslashreplace"))

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program made the descriptor so: terminals are shared
                select.select([], [self._descriptor], [])
            except OSError:  # nobody will ever read it
                with self._changed:
                    self.dropped += 1
                return


class LineHandler(logging.Handler):
    """Writes a record as one line: at once where writing cannot wait (a file), by an `Outlet` where it can."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        descriptor = _may_wait(stream)
        self.outlet = Outlet(descriptor, self._tell) if descriptor is not None else None
        self._lost = 0

    @property
    def dropped(self) -> int:
        """Lines that nobody can read, so far."""
        return self._lost + (self.outlet.dropped if self.outlet is not None else 0)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; never waits for a reader."""
        try:
            line = self.format(record) + "\n"
            if self.outlet is not None:
                self.outlet.put(line)
            elif self._stream is not None and self._stream.closed:
                self._lost += 1
            elif self._stream is not None:
                self._stream.write(line)
                self._stream.flush()
        except OSError:  # a full disk, or a closed descriptor
            self._lost += 1
        except (ValueError, TypeError):  # arguments that do not fit their message
            self.handleError(record)

    def flush(self) -> None:
        """Wait a moment for what is not written: `logging` asks for it at the end of the program."""
        if self.outlet is not None:
            self.outlet.flush(_LAST_WORDS_S)

    def _tell(self, dropped: int) -> str:
        message = "%d log lines were dropped: nobody read them"
        record = logging.LogRecord("tgi.log", logging.WARNING, __file__, 0, message, (dropped,), None)
        return self.format(record) + "\n"


def _may_wait(stream: TextIO | None) -> int | None:
    """The descriptor of a stream whose reader may be slow: a pipe, a terminal, a socket; None for others."""
    try:
        descriptor = stream.fileno() if stream is not None else None
        return None if descriptor is None or stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
    except (OSError, ValueError):  # not a real stream, or a closed one
        return None


class Flood(logging.Filter):
    """Lets at most ten records of a kind pass in a second, from WARN on; then tells how many there were.

    A record's kind is its `extra={"kind": ...}`, or the line of code that wrote it.
    """

    def __init__(self, handler: logging.Handler, most_a_second: int = _MOST_A_SECOND) -> None:
        super().__init__()
        self._handler = handler
        self._most = most_a_second
        self._second = 0
        self._counts: dict[Hashable, tuple[int, str, str]] = {}  # kind -> count, target, what to call it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record may be written."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, counts = second, self._counts
            self._counts = {}
            for count, target, name in counts.values():
                if count > self._most:
                    self._tell(count - self._most, target, name)
        if record.levelno < logging.WARNING:
            return True
        kind = getattr(record, "kind", None)
        key: Hashable = kind or (record.name, record.lineno)
        count = self._counts.get(key, (0,))[0] + 1
        self._counts[key] = (count, record.name, kind or f"line {record.lineno}")
        return count <= self._most

    def _tell(self, more: int, target: str, name: str) -> None:
        message = "%d more messages of kind `%s`"
        record = logging.LogRecord(target, logging.WARNING, __file__, 0, message, (more, name), None)
        self._handler.handle(record)


def escape(text: str) -> str:
    """`text` with every control character (and every other unprintable one) written out, such as `\\n`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, under TGI's names (spec/metrics.md section 4)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON, without a line end."""
        line: dict[str, Any] = {
            "timestamp": _timestamp(record),
            "level": _level(record),
            "message": record.getMessage(),
            "target": record.name,
            "filename": record.pathname,
            "line_number": record.lineno,
            **_facts(record),
        }
        if span := getattr(record, "span", None):
            line["span"] = span
            line["spans"] = [span]
        if exception := _exception(self, record):
            line["exception"] = exception
        return json.dumps(line, default=str)  # ASCII only: control characters and line separators arrive escaped


class TextFormatter(logging.Formatter):
    """`timestamp LEVEL span{fields}: target: message`, coloured for terminals when asked."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, followed by the traceback's lines if it has one."""
        level, target = _level(record), record.name
        timestamp, padded = _timestamp(record), f"{level:>5}"
        if self._colour:
            timestamp, target = f"{_DIM}{timestamp}{_RESET}", f"{_DIM}{target}{_RESET}"
            padded = f"{_COLOURS[level]}{padded}{_RESET}"
        line = f"{timestamp} {padded} {_span_text(record)}{target}: {escape(record.getMessage())}"
        lines = (_exception(self, record) or "").splitlines()
        return "\n".join([line, *("    " + escape(part) for part in lines)])


def _span_text(record: logging.LogRecord) -> str:
    span = {**(getattr(record, "span", None) or {}), **_facts(record)}
    if not span:
        return ""
    name = span.pop("name", "request")
    return escape(f"{name}{{{' '.join(f'{key}={value}' for key, value in span.items())}}}: ")


def _facts(record: logging.LogRecord) -> Mapping[str, str]:
    """What is bound, or the record's own `extra={"facts": ...}`: another task writes it for the request."""
    return getattr(record, "facts", None) or _bound.get()


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if record.exc_info:
        return formatter.formatException(record.exc_info)
    frames: str | None = getattr(record, "frames", None)
    return frames


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    name = _NAMES.get(record.levelname, record.levelname)
    return name if name in _COLOURS else "INFO"
