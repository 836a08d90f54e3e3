"""A tiny wheel that stands for the default model's, found by pip in a folder instead of on an index."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tgi.hub.wheel import WheelModel

CONTENT = bytes(range(256)) * 8192  # 2 MiB


@dataclass(frozen=True)
class LocalWheel:
    """The wheel, and how to make pip find it without network."""

    model: WheelModel
    folder: Path

    @property
    def pip_arguments(self) -> tuple[str, ...]:
        """Arguments that point pip at the folder."""
        return ("--no-index", "--find-links", str(self.folder))


def build_wheel(folder: Path, content: bytes, member: str = "tiny_model/model.gguf") -> Path:
    """A wheel of one file that pip accepts."""
    info = "tiny_model-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}).items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def local_wheel(tmp_path: Path) -> LocalWheel:
    """A good wheel, pinned."""
    folder = tmp_path / "links"
    folder.mkdir()
    build_wheel(folder, CONTENT)
    model = WheelModel("Tiny", "tiny-model==1.0", "tiny_model/model.gguf", hashlib.sha256(CONTENT).hexdigest(),
                       len(CONTENT))  # fmt: skip
    return LocalWheel(model, folder)
