"""Reads weights as they lie on disk, mapped and never copied, without torch.

`open_checkpoint(path)` answers with one of the two readers, which look the same to whoever loads a model: tensors under
the names of the transformers library, and a configuration under the keys of config.json.
"""

from __future__ import annotations

from pathlib import Path

from tgi.checkpoint.tensors import Checkpoint, RawTensor
from tgi.errors import ModelError

__all__ = ["Checkpoint", "RawTensor", "open_checkpoint"]

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_checkpoint(path: Path) -> Checkpoint:
    """The weights at `path`: a .gguf file, a .safetensors file, or a folder that holds either.

    Every header is checked before anything is used. A folder with both is read as safetensors.

    Raises: ModelError with exit code 12 (nothing there), 16 (corrupt, or only pickled weights) or 18 (not supported).
    """
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix == ".safetensors":
        from tgi.checkpoint.safetensors import SafetensorsCheckpoint  # noqa: PLC0415  (see `_open_gguf`)

        return SafetensorsCheckpoint(path.parent, (path,))
    if path.exists():
        raise ModelError(f"`{path}` is neither a .gguf nor a .safetensors file",
                         hint="give a model's folder, or a .gguf file", exit_code=18)  # fmt: skip
    raise ModelError(f"`{path}` does not exist", hint="check the path", exit_code=12)


def _open_gguf(path: Path) -> Checkpoint:
    # Late: a front end imports this package for a tokenizer's file, and needs neither weights nor numpy.
    from tgi.checkpoint.gguf import GgufFile  # noqa: PLC0415
    from tgi.checkpoint.gguf_models import GgufCheckpoint  # noqa: PLC0415

    return GgufCheckpoint(GgufFile(path))


def _open_folder(folder: Path) -> Checkpoint:
    from tgi.checkpoint.safetensors import open_folder  # noqa: PLC0415  (see `_open_gguf`)

    checkpoint = open_folder(folder)
    if checkpoint is not None:
        return checkpoint
    gguf = sorted(folder.glob("*.gguf"))
    if len(gguf) == 1:
        return _open_gguf(gguf[0])
    if gguf:
        raise ModelError(f"`{folder}` holds {len(gguf)} .gguf files",
                         hint=f"give the path of one of them: {', '.join(file.name for file in gguf[:8])}",
                         exit_code=12)  # fmt: skip
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"`{folder}` holds only pickled weights (`{pickles[0]}`), which are never loaded: unpickling runs code",
            hint=f"use a revision of the model with .safetensors files, or run `tgi download --convert {folder}`",
            exit_code=16,
        )
    raise ModelError(f"`{folder}` holds no weights: neither .safetensors nor .gguf files",
                     hint="check the path", exit_code=12)  # fmt: skip
