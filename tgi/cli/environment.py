"""What the machine and its environment tell: where models may come from, and the report of `tgi env` and `--env`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from tgi import __version__
from tgi.cli import driver
from tgi.hub.download import HubSettings

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")  # the first that is set wins
PACKAGES = ("torch", "numpy", "tokenizers", "huggingface_hub", "aiohttp", "msgspec", "uvloop", "click", "rich")
VARIABLES = ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TGI_NIX",
             "TGI_CUDA_DRIVER", "TGI_DEFAULT_MODEL")  # fmt: skip
DRIVER_TIMEOUT_S = 5


def hub_token() -> str | None:
    """The token to fetch models with, from the variables TGI's users set; None if there is none."""
    return next((value for name in TOKEN_VARIABLES if (value := os.environ.get(name, "").strip())), None)


def hub_settings() -> HubSettings:
    """Where models may come from, by the environment; `TGI_DEFAULT_MODEL` is set by a package that brings the file."""
    packaged = os.environ.get("TGI_DEFAULT_MODEL", "").strip()
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or None
    return HubSettings(token=hub_token(), endpoint=endpoint, packaged_default=Path(packaged) if packaged else None)


def compute_type() -> str | None:
    """What the header `x-compute-type` should say, for hosts that bill by it; None leaves it to the server."""
    return os.environ.get("COMPUTE_TYPE", "").strip() or None


def vertex_port() -> int | None:
    """The port that Vertex AI calls; None elsewhere, and for a value that is no port, as in TGI."""
    text = os.environ.get("AIP_HTTP_PORT", "").strip()
    return int(text) if text.isdecimal() and text.isascii() and int(text) <= 65535 else None


def runtime_report() -> list[tuple[str, str]]:
    """What a bug report needs, as names and values. Secrets are named, never shown."""
    memory = psutil.virtual_memory()
    rows = [
        ("tgi", __version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
        ("processor", f"{platform.machine()}, {psutil.cpu_count(logical=False)} cores, {os.cpu_count()} threads"),
        ("memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"),
        ("gpus", _gpus()),
        ("gpu driver", driver.find(os.environ).status),
        *((name, version(name)) for name in PACKAGES),
        *((name, os.environ[name]) for name in VARIABLES if os.environ.get(name)),
        *((name, "set (not shown)") for name in TOKEN_VARIABLES if os.environ.get(name)),
    ]
    return rows


def version(package: str) -> str:
    """The installed version of a package, or `not installed`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none found"
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    return "; ".join(answer.stdout.split("\n")).strip("; ")
