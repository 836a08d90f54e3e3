"""The flags of `tgi bench` as a plan: which loads, of what, with which objectives. Contradictions are refused here."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tgi.bench.endpoint import Sampling
from tgi.bench.results import Load, Objective
from tgi.bench.sweep import Sweep, rate_label, streams_label
from tgi.bench.workload import (
    BATCH,
    BURST,
    CONCURRENCY,
    MULTI_TURN,
    REPLAY,
    Arrival,
    read_trace,
)
from tgi.cli.bench_flags import BATCHES, FORMATS, SUFFIXES, seconds_of
from tgi.errors import ConfigError

_METRICS = ("ttft", "itl", "e2e")
_OTHER_NAMES = {"tpot": "itl", "latency": "e2e"}
_OPEN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be run."""

    loads: tuple[Load, ...]
    sweep: Sweep | None
    trace: tuple[Arrival, ...]
    objectives: tuple[Objective, ...]
    sampling: Sampling
    parameters: Mapping[str, str]
    seed: int
    warmups: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Destination:
    """A form of the result, and the file it goes to; None is stdout."""

    form: str
    path: Path | None


def wish(values: Mapping[str, Any]) -> Wish:
    """The plan that the flags add up to. Raises: ConfigError where they contradict each other."""
    kinds = [name for name in ("concurrency", "rate", "sweep", "burst", "replay", "batch_size") if values[name]]
    if len(kinds) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in kinds[:2])
        raise ConfigError(f"`{first}` and `{second}` are two loads", hint="give one of them, and run twice")
    kind = kinds[0] if kinds else "batch_size"
    if values["turns"] > 1 and kind != "concurrency":
        raise ConfigError(f"`--turns {values['turns']}` needs `--concurrency`", hint="add `--concurrency 1`")
    as_tgi = kind == "batch_size"
    prompt_tokens = values["sequence_length"] or (10 if as_tgi else 128)
    output_tokens = values["decode_length"] or (8 if as_tgi else 64)
    shared = values["shared_prefix"]
    if shared > prompt_tokens:
        raise ConfigError(
            f"`--shared-prefix {shared}` is longer than a prompt of {prompt_tokens} tokens",
            hint=f"give `--sequence-length {shared + 1}` or more",
        )
    base = Load(kind="", label="", prompt_tokens=prompt_tokens, output_tokens=output_tokens,
                shared_prefix_tokens=shared)  # fmt: skip
    trace = tuple(read_trace(Path(values["replay"]), limit=values["requests"])) if kind == "replay" else ()
    sweep = None
    if kind == "sweep":
        sweep = Sweep(prompt_tokens=prompt_tokens, output_tokens=output_tokens, shared_prefix_tokens=shared,
                      requests=values["requests"], duration_s=values["duration"])  # fmt: skip
    loads = () if sweep else tuple(_loads(kind, base, values, trace))
    _check_enough(loads, values)
    return Wish(
        loads=loads, sweep=sweep, trace=trace, objectives=objectives(values["slo"] or ""),
        sampling=Sampling(**{name: values[name] for name in Sampling.__struct_fields__}),
        parameters=_parameters(values, kind, prompt_tokens, output_tokens), warmups=values["warmups"],
        seed=values["seed"] if values["seed"] is not None else time.time_ns() % 2**31, rounds=values["rounds"],
    )  # fmt: skip


def objectives(text: str) -> tuple[Objective, ...]:
    """The objectives of "ttft=500ms,itl=50ms". Raises: ConfigError naming what cannot be understood."""
    found = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        name, _, limit = part.partition("=")
        metric = _OTHER_NAMES.get(name.strip().lower(), name.strip().lower())
        if metric not in _METRICS:
            near = difflib.get_close_matches(metric, _METRICS, n=1)
            raise ConfigError(f"`--slo {part}`: there is no objective `{name}`",
                              hint=f"did you mean `{near[0]}`?" if near else "give ttft, itl or e2e")  # fmt: skip
        limit = limit.strip()
        seconds = seconds_of(f"{limit}ms" if limit.replace(".", "", 1).isdecimal() else limit)
        if not seconds:
            raise ConfigError(f"`--slo {part}`: `{limit}` is no time", hint=f"write `{metric}=500ms`")
        found.append(Objective(metric=metric, milliseconds=1e3 * seconds))
    return tuple(found)


def destinations(names: tuple[str, ...], as_json: bool) -> tuple[Destination, ...]:
    """Where results go. Raises: ConfigError for a name that is neither a format nor a file of one."""
    found = []
    for name in (*names, *(("json",) if as_json else ())):
        suffix = Path(name).suffix.lower()
        if name.lower() in FORMATS:
            found.append(Destination(name.lower(), None))
        elif suffix in SUFFIXES:
            path = Path(name).expanduser()
            if not path.parent.is_dir():
                raise ConfigError(f"`--output {name}`: the folder does not exist", hint=f"run `mkdir -p {path.parent}`")
            found.append(Destination(SUFFIXES[suffix], path))
        else:
            near = difflib.get_close_matches(name.lower(), FORMATS, n=1)
            hint = (
                f"did you mean `{near[0]}`?" if near else "give md, csv, json, jsonl or html, or a file such as a.json"
            )
            raise ConfigError(f"`--output {name}` is no format, and no file of one", hint=hint)
    if sum(one.path is None for one in found) > 1:
        raise ConfigError("two formats cannot share stdout", hint="name a file for one of them: `--output result.json`")
    if not any(one.path is None for one in found):
        found.append(Destination("md", None))
    return tuple(dict.fromkeys(found))


def _loads(kind: str, base: Load, values: Mapping[str, Any], trace: tuple[Arrival, ...]) -> list[Load]:
    requests, duration_s, turns = values["requests"], values["duration"], values["turns"]
    if kind == "concurrency":
        count: list[Load] = []
        for streams in dict.fromkeys(values["concurrency"]):
            planned = requests if requests or duration_s else max(16, 4 * streams)
            label = streams_label(streams) + (f" x {turns} turns" if turns > 1 else "")
            count.append(replace(base, kind=MULTI_TURN if turns > 1 else CONCURRENCY, label=label, concurrency=streams,
                                 requests=planned, duration_s=duration_s, turns=turns))  # fmt: skip
        return count
    if kind == "rate":
        duration_s = duration_s if duration_s or requests else _OPEN_S
        return [
            replace(base, kind=values["arrival"], label=rate_label(rate), rate=rate, requests=requests,
                    duration_s=duration_s)
            for rate in dict.fromkeys(values["rate"])
        ]  # fmt: skip
    if kind == "replay":
        name = Path(values["replay"]).name
        return [replace(base, kind=REPLAY, label=f"replay of {name}", requests=len(trace), prompt_tokens=None,
                        output_tokens=None)]  # fmt: skip
    sizes = values["burst"] if kind == "burst" else values["batch_size"] or BATCHES
    words, name = ("Burst", BURST) if kind == "burst" else ("Batch", BATCH)
    return [
        replace(base, kind=name, label=f"{words}: {size}", concurrency=size, requests=size * values["runs"],
                runs=values["runs"])
        for size in dict.fromkeys(sizes)
    ]  # fmt: skip


def _check_enough(loads: tuple[Load, ...], values: Mapping[str, Any]) -> None:
    for load in loads:
        if load.requests is not None and load.concurrency and load.requests < load.concurrency * load.turns:
            raise ConfigError(
                f"`--requests {load.requests}` cannot keep {load.label} busy",
                hint=f"give `--requests {4 * load.concurrency * load.turns}` or more",
            )


def _parameters(values: Mapping[str, Any], kind: str, prompt_tokens: int, output_tokens: int) -> dict[str, str]:
    """TGI's table of parameters, in its order; other loads add what they are."""
    replayed = kind == "replay"
    rows: dict[str, Any] = {
        "Model": values["tokenizer_name"] or "",
        "Sequence Length": "by the trace" if replayed else prompt_tokens,
        "Decode Length": "by the trace" if replayed else output_tokens,
        "Top N Tokens": values["top_n_tokens"],
        "N Runs": values["runs"],
        "Warmups": values["warmups"],
        "Temperature": values["temperature"],
        "Top K": values["top_k"],
        "Top P": values["top_p"],
        "Typical P": values["typical_p"],
        "Repetition Penalty": values["repetition_penalty"],
        "Frequency Penalty": values["frequency_penalty"],
        "Watermark": str(values["watermark"]).lower(),
        "Do Sample": str(values["do_sample"]).lower(),
    }
    if kind not in ("batch_size", "burst"):
        del rows["N Runs"]
    if values["shared_prefix"]:
        rows["Shared Prefix"] = values["shared_prefix"]
    if values["turns"] > 1:
        rows["Turns"] = values["turns"]
    return {name: str(value) for name, value in rows.items()}
