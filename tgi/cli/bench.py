"""`tgi bench`: how fast a server is, how far from the machine's limit, and which of two is faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tgi.cli.bench_flags import SOCKET, options
from tgi.cli.options import SettingsCommand
from tgi.errors import ConfigError

SUMMARY = """Measure a server: any of TGI's or OpenAI's protocol, or one of our own that is started for it.

URL is the server's, http://127.0.0.1:3000 if not given; the URL of a route chooses the protocol. Without a load,
TGI's method runs: batches of 1 to 32 requests, prefill and decode apart. Every prompt is different and has exactly the
length asked for. Tables go to stdout; on a terminal there is a live screen meanwhile.

`tgi bench compare A B` measures two servers in turns under the same load, or compares two saved results, and tells
which is faster and how sure that is.
"""
EXAMPLES = (
    "tgi bench http://127.0.0.1:3000",
    "tgi bench -c 1,8,32 -s 128 -d 64 --slo ttft=500ms,itl=50ms",
    "tgi bench --model-id ./model.gguf --sweep -o report.html",
    "tgi bench --rate 0.5,1,2 --duration 60s --json",
    "tgi bench compare http://127.0.0.1:3000 http://127.0.0.1:8080 -c 8",
    "tgi bench compare before.json after.json",
)


class BenchCommand(SettingsCommand):
    """Keeps what follows `--` for the server that is started."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, without the server's flags."""
        rest: list[str] = []
        ctx.params["command_line"] = (*ctx.command_path.split(), *args)
        if "--" in args:
            place = args.index("--")
            args, rest = args[:place], args[place + 1 :]
        ctx.params["serve_arguments"] = tuple(rest)
        return super().parse_args(ctx, args)


def _run(words: tuple[str, ...], **values: Any) -> int:
    # Imported late: help must not wait for aiohttp and numpy.
    from tgi.cli.bench_session import bench as measure  # noqa: PLC0415
    from tgi.cli.bench_session import compare_saved  # noqa: PLC0415

    compared = bool(words) and words[0] == "compare"
    sources = words[1:] if compared else words
    values["given_by_flag"] = _socket_as_url(values)
    if compared:
        if len(sources) != 2:
            raise ConfigError(f"`compare` needs two URLs or two files; {len(sources)} given",
                              hint="run `tgi bench compare URL_A URL_B`, or `... a.json b.json`")  # fmt: skip
        files = [source for source in sources if _is_file(source)]
        if len(files) == 2:
            return compare_saved(Path(sources[0]), Path(sources[1]), values)
        if files:
            other = next(source for source in sources if source not in files)
            raise ConfigError(f"`{files[0]}` is a saved result and `{other}` is not", hint="compare like with like")
    return measure(_urls(sources, compared, values), values)


def _urls(sources: Sequence[str], compared: bool, values: dict[str, Any]) -> tuple[str, ...]:
    """The servers to measure; none means one of our own. Raises: ConfigError."""
    if compared:
        return tuple(sources)
    given = [*sources, *([values["url"]] if values["url"] else []), *values["given_by_flag"]]
    if len(given) > 1:
        raise ConfigError(f"two servers are given: `{given[0]}` and `{given[1]}`",
                          hint=f"run `tgi bench compare {given[0]} {given[1]}` to compare them")  # fmt: skip
    if values["model_id"]:
        if given:
            raise ConfigError(f"`--model-id` starts a server, and `{given[0]}` is one already", hint="leave one out")
        return ()
    if values["serve_arguments"]:
        raise ConfigError("flags after `--` are for a server that is started here", hint="add `--model-id ID`")
    return (given[0],) if given else ("http://127.0.0.1:3000",)


def _socket_as_url(values: dict[str, Any]) -> list[str]:
    """`--master-shard-uds-path`, if it is a URL. Raises: ConfigError for the path of a socket."""
    path = values["master_shard_uds_path"]
    if not path:
        return []
    if "://" in path:
        return [path]
    which = "the default socket" if path == SOCKET else "the socket"
    raise ConfigError(
        f"`--master-shard-uds-path {path}`: {which} of a shard of TGI cannot be measured; tgi has no shards",
        hint="start `tgi serve` and give its URL: `tgi bench http://127.0.0.1:3000`",
    )


def _is_file(source: str) -> bool:
    return "://" not in source and (Path(source).is_file() or source.endswith(".json"))


bench = BenchCommand(
    "bench",
    params=[click.Argument(["words"], nargs=-1, metavar="[URL | compare A B]"), *options()],
    callback=_run, help=SUMMARY, examples=EXAMPLES,
)  # fmt: skip
