"""What this machine is, and what it can do at most: bytes read and operations done a second, measured once and kept.

Memory is read by all cores with the C library's `memchr`: over more than any cache should hold, and over less again and
again, because a last cache of 100 MB and more holds a whole small model. Arithmetic is numpy's matrix product, which
runs on all cores. Both release the GIL, and neither needs torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psutil

from tgi.bench.results import Machine, MachineRoof

_BUFFER_BYTES = 512 << 20  # in all; more than a machine's share of the last-level cache, as far as seen
_CACHE_SHARES = tuple(n / 64 for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48))  # of these bytes: 8 to 384 MiB
_MATRIX = 1536  # rows and columns
_ROUNDS = 8
MOST_BUSY = 0.2  # of all cores, by others, while the limits are measured
# 8-bit multiply-adds against those of float32, by instruction set: VNNI does four in the place of one, AVX2 needs three
# instructions for what is four, which leaves about two (387 to 199 billion a second on Zen 3).
_INTEGER_GAIN = (("avx512_vnni", 4.0), ("avx_vnni", 4.0), ("avx2", 2.0), ("asimddp", 4.0))


def describe(*, serves: bool) -> Machine:
    """This machine; `serves` tells whether the server runs here too."""
    return Machine(
        cpu=_cpu_name(), cores=cores(), memory_bytes=int(psutil.virtual_memory().total),
        system=f"{platform.system()} {platform.release()}", serves=serves,
    )  # fmt: skip


def cores() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_here(url: str) -> bool:
    """Whether the server of a URL runs on this machine: a loopback address, or one of our own."""
    host = urlsplit(url).hostname or ""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address for found in psutil.net_if_addrs().values() for address in found}
    return any(address in own or str(address).startswith("127.") or address == "::1" for address in addresses)


def roof(cache: Path, *, again: bool = False) -> tuple[MachineRoof, str | None]:
    """What this machine can do, from the file in `cache` where it was measured before, else measured now (3 s).

    `again` measures in any case.

    Measured beside other work it would be too low: then it is not kept, and the second value says so.
    """
    path = cache / "bench" / f"roof-{_machine_id()}.json"
    kept = None if again else _kept(path)
    if kept is not None:
        return kept, None
    busy = _busy()
    measured = measure_roof()
    if busy > MOST_BUSY:
        return measured, f"this machine was {busy:.0%} busy while its limits were measured: the roof is too low"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(measured))
    except OSError:
        return measured, None  # a cache that cannot be written costs a measurement, not the benchmark
    return measured, None


def _kept(path: Path) -> MachineRoof | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=MachineRoof)
    except (OSError, msgspec.DecodeError):
        return None


def measure_roof() -> MachineRoof:
    """Measure now: the best of a few rounds, for what disturbs a round is not the machine's limit."""
    rate = _matrix_rate()
    gain = next((gain for flag, gain in _INTEGER_GAIN if flag in _cpu_flags()), None)
    bandwidth, caches = _bandwidths()
    return MachineRoof(
        bandwidth=bandwidth, caches=caches, float32_rate=rate, integer_rate=None if gain is None else gain * rate,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )  # fmt: skip


def _bandwidths(total: int = _BUFFER_BYTES, rounds: int = _ROUNDS) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Bytes a second that all cores together read of `total` bytes, and of fewer, as `MachineRoof.caches` has them."""
    memchr = ctypes.CDLL(None).memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    threads = cores()
    # Ones, not zeros: pages never written to are all one page of zeros, which the cache holds.
    buffers = [np.ones(total // threads, dtype=np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def once(size: int) -> float:
            share = size // threads
            begin = time.perf_counter()
            found = list(pool.map(lambda buffer: memchr(buffer.ctypes.data, 0, share), buffers))
            assert found == [None] * threads
            return share * threads / (time.perf_counter() - begin)

        def most(size: int) -> float:
            return max(once(size) for _ in range(rounds * min(4, total // size)))

        memory = most(total)
        caches: list[tuple[int, float]] = []
        for share in reversed(_CACHE_SHARES):
            size = int(share * total)
            # Fewer bytes come no slower than more, whatever a neighbour did meanwhile.
            caches.append((size, max(most(size), caches[-1][1] if caches else memory)))
    return memory, tuple(reversed(caches))


def _matrix_rate(size: int = _MATRIX, rounds: int = _ROUNDS) -> float:
    """Operations a second of a float32 matrix product on all cores, a multiply-add counted as two."""
    chance = np.random.default_rng(0)
    left, right = (chance.random((size, size), dtype=np.float32) for _ in range(2))
    out = np.empty_like(left)

    def once() -> float:
        begin = time.perf_counter()
        np.matmul(left, right, out=out)
        return 2 * size**3 / (time.perf_counter() - begin)

    return max(once() for _ in range(rounds))


def _busy() -> float:
    """The share of all cores that is at work now, looked at for a moment."""
    return float(psutil.cpu_percent(interval=0.3)) / 100


def _machine_id() -> str:
    """A name for this machine's arithmetic: processor, cores and memory; it tells nothing of its owner."""
    facts = f"{_cpu_name()}/{cores()}/{psutil.virtual_memory().total >> 30}/{np.__version__}/caches"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _cpu_name() -> str:
    for name, value in _cpu_lines():
        if name == "model name":
            return value
    return platform.processor() or platform.machine()


def _cpu_flags() -> frozenset[str]:
    return frozenset(flag for name, value in _cpu_lines() if name in ("flags", "Features") for flag in value.split())


def _cpu_lines() -> list[tuple[str, str]]:
    """The first processor's lines in /proc/cpuinfo; none where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, _, value in pairs]
