"""Files mapped into memory, and the error every reader raises for a file that is not what it claims to be."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tgi.errors import ModelError

_NEIGHBOURS = 64 << 10
"""Bytes that Linux maps together with the page that is asked for, where it has them in its cache."""


class _MappedFile(mmap.mmap):
    """Memory whose untouched content is a file's."""


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The whole file as bytes, copy-on-write: nothing is read before it is touched, nothing is ever written back.

    The view is writable because torch, where that computes, warns about tensors over read-only memory.

    Shapes: returns [file size] uint8.
    Raises: ModelError when the file is missing (exit 12), empty or unreadable (exit 16).
    """
    try:
        with path.open("rb") as file:
            return np.frombuffer(_MappedFile(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
    except FileNotFoundError as error:
        raise ModelError(f"`{path}` does not exist", hint="check the path", exit_code=12) from error
    except ValueError as error:
        raise corrupt(path, "the file is empty") from error
    except OSError as error:
        raise ModelError(f"`{path}` cannot be read: {error.strerror}",
                         hint="check the file and its permissions", exit_code=16) from error  # fmt: skip


def forget(view: npt.NDArray[np.generic]) -> None:
    """Give the pages of a view of a mapped file back: whoever reads them again gets them from the file again.

    For weights that somebody holds in another form now. Pages that came with the first and the last of them go too.
    What was written there is lost; memory of other kinds is left alone.
    """
    owner: object = view
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, _MappedFile) or not view.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = view.ctypes.data - np.frombuffer(owner, dtype=np.uint8).ctypes.data
    first = max(0, start - start % mmap.PAGESIZE - _NEIGHBOURS)
    last = min(len(owner), start + view.nbytes + _NEIGHBOURS)
    owner.madvise(mmap.MADV_DONTNEED, first, last - first)


def corrupt(path: Path, fault: str) -> ModelError:
    """The error for a file whose content is damaged, cut short or made up."""
    return ModelError(f"`{path}` is corrupt: {fault}",
                      hint="delete the file and download the model again", exit_code=16)  # fmt: skip
