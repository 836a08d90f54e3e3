"""Which backend computes: chosen once by the engine, before its first step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tgi.kernels.backend import Backend
from tgi.kernels.cpu import CpuKernels, find_library


@dataclass(slots=True)
class Dispatch:
    """The backend in use, and the native one where it exists."""

    backend: Backend
    native: CpuKernels | None


def _dispatch() -> Dispatch:
    path = find_library()
    native = None if path is None else CpuKernels(path)
    if native is not None:
        native.configure(1)
    return Dispatch(native or _torch(), native)


def _torch() -> Backend:
    from tgi.kernels.on_torch import TorchKernels  # noqa: PLC0415  (torch is imported where it computes only)

    return TorchKernels()


DISPATCH = _dispatch()
"""Until `configure` is called: the native library on one thread where it was built, else torch."""


def configure(*, threads: int | None = None, native: bool = True, most: str | None = None) -> str:
    """Choose the backend and its threads; the engine calls this once, before any other operation.

    `threads` counts the caller; None means one a physical core this process may use. `native` False computes with
    torch; `most` bounds the instruction set that the native path takes, for tests. None takes what is fastest here.

    Returns: what runs: "avx512_bf16", "avx512", "avx2", "portable" or "torch" (also when the native library was not
             built).
    Raises:  ValueError when `threads` is not positive.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be > 0; given {threads}")
    if not native or DISPATCH.native is None:
        DISPATCH.backend = _torch()
        return "torch"
    DISPATCH.backend = DISPATCH.native
    return DISPATCH.native.configure(usable_cores() if threads is None else threads, most=most)


def usable_cores() -> int:
    """Physical cores this process may use: bounded by its affinity and by the processor quota of its control group."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    try:
        topology = Path("/sys/devices/system/cpu")
        cores = len({(topology / f"cpu{i}/topology/thread_siblings_list").read_text() for i in processors})
    except OSError:
        cores = len(processors)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
