"""The flags of `tgi bench`: those of TGI's benchmark, with their variables, and ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

SERVER, TEXT, LOAD, METHOD, CHOICE, RESULT = (
    "Server", "Requests", "Load", "TGI's method (what runs when no load is given)", "Choice of tokens", "Results",
)  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32)
FORMATS = ("md", "csv", "json", "jsonl", "html")
SUFFIXES = {".md": "md", ".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".html": "html", ".htm": "html"}
SOCKET = "/tmp/text-generation-server-0"  # where a shard of TGI listens
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class BenchOption(click.Option):
    """An option whose help ends with its default and its variable, as those of the settings do."""

    def __init__(self, *names: str, title: str, help: str, otherwise: str = "none", **details: Any) -> None:
        super().__init__([*names], help=help, **details)
        self.title = title
        self.otherwise = otherwise  # the default, in words

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value; None if it is unset or empty."""
        value = super().resolve_envvar_value(ctx)
        return value if value is not None and value.strip() else None

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Names on the left; meaning, default and variable on the right."""
        if self.hidden:
            return None
        names = [*(name for name in self.opts if len(name) == 2), *(name for name in self.opts if len(name) > 2)]
        names += self.secondary_opts
        left = ", ".join(names) + ("" if self.is_flag else f" {self.metavar}")
        facts = [] if self.is_flag else [f"default: {self.otherwise}"]
        facts += [f"env: {self.envvar}"] if self.envvar else []
        facts = [fact.replace(" ", "\xa0").replace("-", "\u2011") for fact in facts]
        return left, f"{self.help or ''}" + (f"  [{'; '.join(facts)}]" if facts else "")


class Seconds(click.ParamType[float]):
    """A length of time: "90", "90s", "500ms", "2m"."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In seconds."""
        seconds = value if isinstance(value, float | int) else seconds_of(value)
        if seconds is None or not seconds > 0:
            self.fail(f"'{value}' is no time: write `30s`, `500ms` or `2m`", param, ctx)
        return float(seconds)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Positive numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: Callable[[str], float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """In the order given."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            numbers = ()
        if not numbers or any(not 0 < number < 1e6 for number in numbers):
            example = "`1,8,32`" if self._kind is int else "`0.5,2`"
            self.fail(f"'{value}' is no list of positive numbers such as {example}", param, ctx)
        return numbers


def seconds_of(text: str) -> float | None:
    """The seconds of "500ms", "2m" or "30"; None where it is no time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|)", text.strip().lower())
    return float(found[1]) * _SECONDS[found[2] or "s"] if found else None


def options() -> list[click.Option]:
    """All of them, in the order of the help."""
    return [*_server(), *_requests(), *_loads(), *_method(), *_sampling(), *_results()]


def _server() -> list[click.Option]:
    return [
        BenchOption("--url", title=SERVER, metavar="URL", help="same as URL", otherwise="http://127.0.0.1:3000"),
        BenchOption("--model-id", title=SERVER, metavar="ID",
                    help="start `tgi serve` with this model, measure it and stop it; what follows `--` is for it"),
        BenchOption("--protocol", title=SERVER, metavar="NAME", default="auto",
                    type=click.Choice(("auto", "tgi", "chat", "completions")),
                    help="/generate_stream (tgi), /v1/chat/completions or /v1/completions",
                    otherwise="auto: by what answers"),
        BenchOption("--model", title=SERVER, metavar="NAME", help="model to ask for on OpenAI routes",
                    otherwise="the first served"),
        BenchOption("--api-key", title=SERVER, metavar="KEY", envvar="API_KEY", help="sent as a bearer token"),
        BenchOption("--api-key-file", title=SERVER, metavar="PATH", type=click.Path(dir_okay=False),
                    help="file that holds the key"),
        BenchOption("--timeout", title=SERVER, metavar="TIME", type=Seconds(), default=600.0,
                    help="a request that takes longer has failed", otherwise="600s"),
        BenchOption("-m", "--master-shard-uds-path", title=SERVER, metavar="URL", envvar="MASTER_SHARD_UDS_PATH",
                    help="TGI's flag for a shard's socket: servers are measured over HTTP here, so give a URL"),
    ]  # fmt: skip


def _requests() -> list[click.Option]:
    count = click.IntRange(min=1)
    return [
        BenchOption("-t", "--tokenizer-name", title=TEXT, metavar="ID", envvar="TOKENIZER_NAME",
                    help="hub id or folder of the tokenizer that counts the prompts' tokens",
                    otherwise="the server counts"),
        BenchOption("--revision", title=TEXT, metavar="NAME", envvar="REVISION", default="main",
                    help="branch, tag or commit of the tokenizer, and of --model-id", otherwise="main"),
        BenchOption("-s", "--sequence-length", title=TEXT, metavar="TOKENS", envvar="SEQUENCE_LENGTH", type=count,
                    help="tokens of each prompt, exactly", otherwise="10 (TGI's method), 128"),
        BenchOption("-d", "--decode-length", title=TEXT, metavar="TOKENS", envvar="DECODE_LENGTH", type=count,
                    help="tokens to generate; the end of text is ignored where the server can",
                    otherwise="8 (TGI's method), 64"),
        BenchOption("--shared-prefix", title=TEXT, metavar="TOKENS", type=click.IntRange(min=0), default=0,
                    help="tokens that all prompts begin with", otherwise="0"),
        BenchOption("--seed", title=TEXT, metavar="N", type=click.IntRange(min=0),
                    help="makes the same prompts and arrivals again", otherwise="a new one"),
    ]  # fmt: skip


def _loads() -> list[click.Option]:
    count = click.IntRange(min=1)
    return [
        BenchOption("-c", "--concurrency", title=LOAD, metavar="LIST", type=Numbers(int),
                    help="closed loops of that many streams, one after another"),
        BenchOption("--rate", title=LOAD, metavar="LIST", type=Numbers(float),
                    help="open loops of that many requests a second"),
        BenchOption("--arrival", title=LOAD, metavar="NAME", type=click.Choice(("poisson", "constant")),
                    default="poisson", help="gaps between the requests of --rate: poisson or constant",
                    otherwise="poisson"),
        BenchOption("--sweep", title=LOAD, is_flag=True,
                    help="1, 2, 4, ... streams until the server saturates, then open loops below that rate"),
        BenchOption("--burst", title=LOAD, metavar="LIST", type=Numbers(int),
                    help="that many requests at once; repeated --runs times"),
        BenchOption("--replay", title=LOAD, metavar="FILE", type=click.Path(exists=True, dir_okay=False),
                    help="requests of a JSONL file, each at its own time"),
        BenchOption("--turns", title=LOAD, metavar="N", type=count, default=1,
                    help="turns of a conversation, with --concurrency", otherwise="1"),
        BenchOption("-n", "--requests", title=LOAD, metavar="N", type=count,
                    help="requests of each load", otherwise="4 a stream, at least 16"),
        BenchOption("--duration", title=LOAD, metavar="TIME", type=Seconds(),
                    help="length of each load", otherwise="30s (open loops)"),
        BenchOption("--rounds", title=LOAD, metavar="N", type=click.IntRange(min=4), default=6,
                    help="parts each load is cut into by `compare`, to alternate between the servers", otherwise="6"),
    ]  # fmt: skip


def _method() -> list[click.Option]:
    return [
        BenchOption("-b", "--batch-size", title=METHOD, metavar="N", type=click.IntRange(min=1), multiple=True,
                    help="requests sent at once; repeat the flag for several", otherwise="1, 2, 4, 8, 16, 32"),
        BenchOption("-r", "--runs", title=METHOD, metavar="N", envvar="RUNS", type=click.IntRange(min=1), default=10,
                    help="runs of each batch size", otherwise="10"),
        BenchOption("-w", "--warmups", title=METHOD, metavar="N", envvar="WARMUPS", type=click.IntRange(min=0),
                    default=1, help="runs before measuring, which do not count; of any load", otherwise="1"),
    ]  # fmt: skip


def _sampling() -> list[click.Option]:
    number, count = click.FLOAT, click.IntRange(min=0)
    shared: dict[str, Any] = {"title": CHOICE, "otherwise": "off"}
    return [
        BenchOption("--temperature", metavar="X", envvar="TEMPERATURE", type=number, help="of the sampling", **shared),
        BenchOption("--top-k", metavar="N", envvar="TOP_K", type=count, help="most likely tokens kept", **shared),
        BenchOption("--top-p", metavar="X", envvar="TOP_P", type=number, help="probability kept", **shared),
        BenchOption("--typical-p", metavar="X", envvar="TYPICAL_P", type=number, help="typical probability kept",
                    **shared),
        BenchOption("--repetition-penalty", metavar="X", envvar="REPETITION_PENALTY", type=number,
                    help="divides scores of tokens seen", **shared),
        BenchOption("--frequency-penalty", metavar="X", envvar="FREQUENCY_PENALTY", type=number,
                    help="subtracted from scores of tokens, by how often they were seen", **shared),
        BenchOption("--watermark", envvar="WATERMARK", is_flag=True, title=CHOICE, help="watermark the text"),
        BenchOption("--do-sample", envvar="DO_SAMPLE", is_flag=True, title=CHOICE, help="sample instead of greedy"),
        BenchOption("--top-n-tokens", metavar="N", envvar="TOP_N_TOKENS", type=count, default=0, title=CHOICE,
                    help="alternatives asked for at each token", otherwise="0"),
    ]  # fmt: skip


def _results() -> list[click.Option]:
    return [
        BenchOption("--slo", title=RESULT, metavar="LIST",
                    help="objectives for goodput, such as `ttft=500ms,itl=50ms` (also e2e)"),
        BenchOption("-o", "--output", title=RESULT, metavar="NAME", multiple=True,
                    help="md, csv, json, jsonl or html to stdout, or a file with such an ending; may be repeated",
                    otherwise="md"),
        BenchOption("--json", "as_json", title=RESULT, is_flag=True, help="same as --output json"),
        BenchOption("--roof/--no-roof", default=None, title=RESULT,
                    help="distance to the limit of this machine, if the server runs on it"),
        BenchOption("--remeasure", title=RESULT, is_flag=True, help="measure this machine's limits again"),
        BenchOption("--no-progress", title=RESULT, is_flag=True, help="no live screen, and no progress lines"),
    ]  # fmt: skip
