"""Log lines: text for people on stderr, or JSON lines for machines on stdout, as TGI writes them.

A record may carry `extra={"span": {"name": "generate", ...}}`: what it happened in, and facts worth searching for.
Prompts and answers are logged at DEBUG only. Control characters never reach the output raw, so that no request can
forge a line or move a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

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


def configure(*, json_lines: bool = False, level: str = "info", colour: bool = False) -> None:
    """Send the log lines of the whole process to one place, in one format; earlier handlers are replaced.

    `json_lines` writes one JSON object a line to stdout, where TGI's users expect it; else text goes to stderr.
    `level` is a level for tgi (other libraries then speak from WARN on), or a filter list as TGI's `LOG_LEVEL`:
    `info,tgi.server=debug`, where a bare level is for everything.

    Raises: ConfigError for an unknown level.
    """
    handler = logging.StreamHandler(sys.stdout if json_lines else sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter(colour=colour))
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
            thresholds[target.replace("::", ".")] = LEVELS[level.lower()]
        else:
            thresholds.update({"": LEVELS[level.lower()], "tgi": LEVELS[level.lower()]})
    return thresholds


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
        }
        if span := getattr(record, "span", None):
            line["span"] = span
            line["spans"] = [span]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
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
        if record.exc_info:
            traceback = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *("    " + escape(part) for part in traceback)])
        return line


def _span_text(record: logging.LogRecord) -> str:
    span = dict(getattr(record, "span", None) or {})
    if not span:
        return ""
    name = span.pop("name", "")
    return escape(f"{name}{{{' '.join(f'{key}={value}' for key, value in span.items())}}}: ")


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _level(record: logging.LogRecord) -> str:
    name = _NAMES.get(record.levelname, record.levelname)
    return name if name in _COLOURS else "INFO"
