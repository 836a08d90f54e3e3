"""Files mapped into memory, and the error every reader raises for a file that is not what it claims to be."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from tgi.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NEIGHBOURS = 64 << 10
"""Bytes that Linux maps together with the page that is asked for, where it has them in its cache."""


class _MappedFile(mmap.mmap):
    """Memory whose untouched content is a file's."""


def map_bytes(path: Path) -> memoryview:
    """The whole file as bytes, copy-on-write: nothing is read before it is touched, nothing is ever written back.

    The view is writable because torch, where that computes, warns about tensors over read-only memory.

    Raises: ModelError when the file is missing (exit 12), empty or unreadable (exit 16).
    """
    try:
        with path.open("rb") as file:
            return memoryview(_MappedFile(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except FileNotFoundError as error:
        raise ModelError(f"`{path}` does not exist", hint="check the path", exit_code=12) from error
    except ValueError as error:
        raise corrupt(path, "the file is empty") from error
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror}",
                         hint="check the file and its permissions", exit_code=16) from error  # fmt: skip


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """What `map_bytes` maps as [file size] uint8. Raises: as that does."""
    import numpy as np  # noqa: PLC0415  (whoever reads headers alone does without)

    return np.frombuffer(map_bytes(path), dtype=np.uint8)


def forget(view: npt.NDArray[np.generic]) -> None:
    """Give the pages of a view of a mapped file back: whoever reads them again gets them from the file again.

    For weights that somebody holds in another form now. Pages that came with the first and the last of them go too.
    What was written there is lost; memory of other kinds is left alone.
    """
    owner: object = view
    while (base := getattr(owner, "base", None)) is not None:  # an array's; a memory view has none
        owner = base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, _MappedFile) or not view.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = view.ctypes.data - ctypes.addressof(ctypes.c_char.from_buffer(owner))
    first = max(0, start - start % mmap.PAGESIZE - _NEIGHBOURS)
    last = min(len(owner), start + view.nbytes + _NEIGHBOURS)
    owner.madvise(mmap.MADV_DONTNEED, first, last - first)


def corrupt(path: Path, fault: str) -> ModelError:
    """The error for a file whose content is damaged, cut short or made up."""
    return ModelError(f"`{path}` is corrupt: {fault}",
                      hint="delete the file and download the model again", exit_code=16)  # fmt: skip
