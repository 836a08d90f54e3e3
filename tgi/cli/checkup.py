"""The examinations of `tgi doctor`, one function each."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from huggingface_hub import constants, get_token

from tgi import __version__
from tgi.cli.aside import call_aside
from tgi.cli.environment import PACKAGES, TOKEN_VARIABLES, hub_token, version
from tgi.cli.plan import present
from tgi.cli.progress import size
from tgi.config import Config
from tgi.errors import ModelError, TgiError
from tgi.server.ports import reserve

OK, WARN, FAIL = "ok", "warn", "FAIL"
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd")
WHY = {
    "avx512": "the processor has AVX-512",
    "avx512_bf16": "the processor has AVX-512 with BF16",
    "avx2": "the processor has AVX2",
    "portable": "the processor has neither AVX2 nor AVX-512: slow",
    "torch": "the native library was not built: slow",
}
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 1 << 30, 300 << 20  # bytes; the default model takes 250 MiB with a small cache
LITTLE_DISK = 1 << 30
FEW_FILES = 1024
NETWORK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one examination found: `ok`, `warn`, or `FAIL` for what would stop a server."""

    name: str
    status: str
    found: str
    hint: str | None = None


def examine(config: Config) -> Iterator[Finding]:
    """Every finding, each as soon as it is known."""
    yield Finding("versions", OK, f"tgi {__version__}, python {platform.python_version()}, {platform.platform()}")
    yield _packages()
    yield _processor()
    yield _memory()
    yield _open_files()
    yield _port(config)
    network = _network()
    yield network
    yield _token()
    yield _cache(config)
    yield _model(config, reachable=network.status == OK)
    yield _kernels()


def _packages() -> Finding:
    versions = {name: version(name) for name in PACKAGES}
    missing = [name for name, found in versions.items() if found == "not installed"]
    if missing:
        return Finding("packages", FAIL, f"not installed: {', '.join(missing)}", "install tgi again, with pip or Nix")
    return Finding("packages", OK, ", ".join(f"{name} {found}" for name, found in versions.items()))


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    flags = [flag for flag in FLAGS if flag in line.split()]
    cores = f"{psutil.cpu_count(logical=False)} cores, {os.cpu_count()} threads"
    return Finding("processor", OK, f"{platform.machine()}, {cores}: {' '.join(flags) or 'no known extensions'}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} of {size(memory.total)} available"
    hint = "end other programs, or choose a smaller model; `tgi plan` shows what one takes"
    if memory.available < TOO_LITTLE_MEMORY:
        return Finding("memory", FAIL, found, hint)
    return Finding("memory", WARN if memory.available < LITTLE_MEMORY else OK, found, hint)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    status = WARN if 0 <= soft < FEW_FILES else OK
    return Finding("open files", status, f"at most {soft}", "each connection is one: `ulimit -n 10240` before serving")


def _port(config: Config) -> Finding:
    place = f"{config.http.hostname}:{config.http.port}"
    try:
        reserve(config.http.hostname, config.http.port).close()
    except TgiError as error:
        return Finding("port", FAIL, error.message, error.hint)
    return Finding("port", OK, f"{place} is free")


def _network(ask: Callable[[str], None] | None = None) -> Finding:
    if constants.HF_HUB_OFFLINE:
        return Finding("network", WARN, "off: HF_HUB_OFFLINE is set", "only models on this machine can be served")
    endpoint = constants.ENDPOINT
    try:
        (ask or _ask)(endpoint)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Finding("network", WARN, f"{endpoint} cannot be reached: {reason}",
                       "check HTTPS_PROXY and HF_ENDPOINT; models on this machine can be served")  # fmt: skip
    return Finding("network", OK, f"{endpoint} answers")


def _ask(endpoint: str) -> None:
    request = urllib.request.Request(endpoint, method="HEAD")
    with contextlib.suppress(urllib.error.HTTPError):  # an answer all the same
        urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT_S).close()


def _token() -> Finding:
    variable = next((name for name in TOKEN_VARIABLES if os.environ.get(name, "").strip()), None)
    token = hub_token() or get_token()
    if token is None:
        return Finding("token", OK, "none: enough for public models")
    return Finding("token", OK, f"{masked(token)} from {variable or 'the login of the hub'}")


def masked(secret: str) -> str:
    """Enough of a secret to tell it from another one, and no more."""
    return f"{secret[:3]}***" if len(secret) > 12 else "***"


def _cache(config: Config) -> Finding:
    cache = config.model.huggingface_hub_cache or Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("cache", WARN, f"{cache} cannot be written to", "set HF_HOME to a folder of yours")
    status = WARN if free < LITTLE_DISK else OK
    return Finding("cache", status, f"{cache}, {size(free)} free", "`tgi cache ls` shows what can be removed")


def _model(config: Config, *, reachable: bool) -> Finding:
    try:
        files = present(config.model)
    except ModelError as error:
        if reachable:
            return Finding("model", OK, f"{error.message}: it will be fetched at the first start")
        return Finding("model", FAIL, error.message, "fetch it where there is a network, or name a local file")
    return Finding("model", OK, f"{files.model_id}, {files.path}")


def _kernels() -> Finding:
    try:
        found = call_aside("tgi.runner.planning:kernels_here")
    except TgiError as error:
        return Finding("kernels", FAIL, error.message, "install tgi again, with pip or Nix")
    chosen = found["kernels"]
    why = WHY.get(chosen, "chosen for this processor")
    status = WARN if chosen in ("portable", "torch") else OK
    hint = "build it with a C++ compiler: pip install --force-reinstall ." if chosen == "torch" else None
    return Finding("kernels", status, f"{chosen} on {found['threads']} threads: {why}", hint)
