"""A request's parameters as TGI writes them down, for the log and for traces."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sized
from typing import Any

import msgspec

from tgi.server.schemas import GenerateParameters

_TGIS_ORDER = (
    "best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p", "do_sample",
    "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details", "decoder_input_details", "seed",
    "top_n_tokens", "grammar", "adapter_id",
)  # fmt: skip
_FLAGS = {"do_sample", "watermark", "details", "decoder_input_details"}  # never absent in TGI


def described(parameters: GenerateParameters) -> str:
    """The parameters in the words of TGI's log: `GenerateParameters { best_of: None, temperature: Some(0.5), ... }`.

    Numbers are as they are; a client's text is shown as its length and a hash, which tell whether two are the same.
    """
    own = [name for name in parameters.__struct_fields__ if name not in _TGIS_ORDER]
    shown = [_field(name, getattr(parameters, name)) for name in _TGIS_ORDER if name in parameters.__struct_fields__]
    shown += [_field(name, value) for name in own if (value := getattr(parameters, name)) is not None]
    return f"GenerateParameters {{ {', '.join(shown)} }}"


def optional(value: object) -> str:
    """A value that may be absent, as Rust writes it: `Some(42)` or `None`."""
    return "None" if value is None else f"Some({value})"


def _field(name: str, value: Any) -> str:
    if name in _FLAGS:
        return f"{name}: {str(bool(value)).lower()}"
    if name == "stop":
        return f"{name}: {_hidden(value) if value else '[]'}"
    if isinstance(value, bool):
        return f"{name}: {optional(str(value).lower())}"
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return f"{name}: {optional(value)}"
    return f"{name}: {optional(_hidden(value))}"


def _hidden(value: Any) -> str:
    """What stands for a client's text."""
    data = msgspec.json.encode(value)
    return f"<{len(value) if isinstance(value, Sized) else len(data)}, sha256 {hashlib.sha256(data).hexdigest()[:8]}>"
