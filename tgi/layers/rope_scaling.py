"""How fast each pair of dimensions rotates: RoPE and every way of stretching it (spec/models.md section 0.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tgi.errors import ModelError
from tgi.kernels import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary positions of one model.

    `kind` is one of KINDS; `dim` counts the rotated dimensions of a head; `original_max` is the longest sequence the
    model was trained on before stretching, `max_positions` is config.json's `max_position_embeddings`; `settings` are
    the other fields of `rope_parameters` (or `rope_scaling`), read by the kind that needs them.
    """

    kind: str
    theta: float
    head_dim: int
    dim: int
    max_positions: int
    original_max: int
    factor: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, config: dict[str, Any], *, head_dim: int, max_positions: int) -> RopeConfig:
        """Read both spellings: `rope_theta` + `rope_scaling`, and `rope_parameters`.

        Raises: ModelError (18) naming a kind that does not exist, (16) naming a value that cannot be.
        """
        settings = _merged_settings(config)
        kind = str(settings.get("rope_type") or settings.get("type") or "default")
        kind = _OTHER_NAMES.get(kind, kind)
        if kind not in KINDS:
            raise ModelError(f"RoPE scaling `{kind}` is not supported", exit_code=18,
                             hint=f"supported: {', '.join(KINDS)}")  # fmt: skip
        fraction = _number(settings, "partial_rotary_factor", 1.0)
        rotated = int(head_dim * fraction)
        # Proportional RoPE keeps the full width: the pairs beyond the fraction get frequency zero instead.
        rope = cls(
            kind=kind,
            theta=_number(settings, "rope_theta", 10_000.0),
            head_dim=head_dim,
            dim=head_dim if kind == "proportional" else rotated,
            max_positions=max_positions,
            original_max=int(_original_max(config, settings, kind, max_positions)),
            factor=None if settings.get("factor") is None else _number(settings, "factor", 1.0),
            settings=settings,
        )
        if rope.dim <= 0 or rope.dim % 2 or rope.dim > head_dim:
            raise ModelError(f"config.json: RoPE cannot rotate {rope.dim} of {head_dim} dimensions", exit_code=16)
        if kind in ("linear", "dynamic", "llama3") and rope.factor is None:
            raise ModelError(f"config.json: RoPE scaling `{kind}` lacks its `factor`", exit_code=16)
        return rope

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence this scaling was made for."""
        if self.kind in ("linear", "dynamic") and self.factor is not None:
            return int(self.max_positions * self.factor)
        if self.kind == "yarn" and self.factor is not None:
            return max(self.max_positions, int(self.original_max * self.factor))
        return self.max_positions

    def variant(self, total_len: int) -> int:
        """Which table a sequence that may grow to `total_len` tokens uses.

        0 is the table of every sequence within the trained length. Beyond it, `longrope` has one other table and
        `dynamic` one a length. It is fixed at admission, for cached keys cannot be rotated again.
        """
        if self.kind == "longrope":
            return int(total_len > self.original_max)
        if self.kind == "dynamic":
            return total_len if total_len > self.max_positions else 0
        return 0

    def frequencies(self, variant: int = 0) -> tuple[Array, float]:
        """The angle a position adds to each pair, and the factor on cos and sin.

        Shapes: [dim / 2] float32. Units: radians a token.
        Raises: ModelError (16) naming a setting that is missing or malformed.
        """
        return _FREQUENCIES[self.kind](self, variant)


def override_rope(config: dict[str, Any], kind: str | None, factor: float | None) -> dict[str, Any]:
    """`config` with its RoPE scaling replaced by `--rope-scaling` and `--rope-factor`; neither given: unchanged.

    As in TGI, a factor alone means linear scaling, and a kind alone a factor of 1.
    """
    if kind is None and factor is None:
        return config
    parameters = config.get("rope_parameters") or {}
    changed = {name: value for name, value in config.items() if name not in ("rope_parameters", "rope_scaling")}
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in parameters:
            changed[name] = parameters[name]
    changed["rope_scaling"] = {"rope_type": kind or "linear", "factor": 1.0 if factor is None else factor}
    return changed


def _merged_settings(config: dict[str, Any]) -> dict[str, Any]:
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise ModelError(f"config.json: `rope_parameters` is no object. Given: {parameters!r}", exit_code=16)
    if any(isinstance(value, dict) for value in parameters.values()):
        raise ModelError("RoPE parameters that differ between layer types are not supported", exit_code=18)
    outside = {name: config[name] for name in ("rope_theta", "partial_rotary_factor") if config.get(name) is not None}
    return outside | {name: value for name, value in parameters.items() if value is not None}


def _original_max(config: dict[str, Any], settings: dict[str, Any], kind: str, max_positions: int) -> float:
    if kind not in ("llama3", "yarn", "longrope"):
        return max_positions
    # A value beside the RoPE settings wins, as in transformers: phi-3 writes it there.
    if config.get("original_max_position_embeddings") is not None:
        return _number(config, "original_max_position_embeddings", max_positions)
    return _number(settings, "original_max_position_embeddings", max_positions)


def _number(settings: dict[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(f"config.json: RoPE's `{name}` must be a positive number. Given: {value!r}", exit_code=16)
    return float(value)


def _base(rope: RopeConfig, theta: float | None = None) -> Array:
    """The base's powers are computed in float64: numpy's in float32 are off by more than torch's, which peers use."""
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    powers = (theta or rope.theta) ** exponents.astype(np.float64)
    return np.float32(1) / powers.astype(np.float32)


def _default(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    return _base(rope), 1.0


def _linear(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    return _base(rope) / (rope.factor or 1.0), 1.0


def _dynamic(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    """Source: NTK-aware scaling (bloc97 and emozilla, 2023), with the length fixed at admission."""
    factor, longest = rope.factor or 1.0, rope.max_positions
    length = max(variant, longest)
    stretch = (factor * length / longest - (factor - 1)) ** (rope.dim / (rope.dim - 2))
    return _base(rope, rope.theta * stretch), 1.0


def _llama3(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    """Source: Llama 3.1's release, `apply_scaling`."""
    low, high = _number(rope.settings, "low_freq_factor", 1.0), _number(rope.settings, "high_freq_factor", 4.0)
    factor, base = rope.factor or 1.0, _base(rope)
    wavelength = 2 * math.pi / base
    blend = (rope.original_max / wavelength - low) / (high - low)
    blended = (1 - blend) * base / factor + blend * base
    stretched = np.where(wavelength > rope.original_max / low, base / factor, blended)
    return np.where(wavelength < rope.original_max / high, base, stretched), 1.0


def _yarn(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    """Source: YaRN (Peng et al., 2023), sections 3.2 and 3.4."""
    settings = rope.settings
    factor = rope.factor if rope.factor is not None else rope.max_positions / rope.original_max

    def dimension_turning(turns: float) -> float:
        """The pair that makes `turns` rotations over the original length."""
        return rope.dim * math.log(rope.original_max / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension_turning(_number(settings, "beta_fast", 32.0))
    high = dimension_turning(_number(settings, "beta_slow", 1.0))
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001
    ramp = ((np.arange(rope.dim // 2, dtype=np.float32) - low) / (high - low)).clip(0, 1)
    base = _base(rope)
    return base / factor * ramp + base * (1 - ramp), _yarn_attention_factor(settings, factor)


def _yarn_attention_factor(settings: dict[str, Any], factor: float) -> float:
    if "attention_factor" in settings:
        return _number(settings, "attention_factor", 1.0)

    def sharpen(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return sharpen(_number(settings, "mscale", 1.0)) / sharpen(_number(settings, "mscale_all_dim", 1.0))
    return sharpen(1.0)


def _longrope(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    """Source: LongRoPE (Ding et al., 2024); the long list serves the whole of a sequence beyond the trained length."""
    name = "long_factor" if variant else "short_factor"
    divisors = rope.settings.get(name)
    if not isinstance(divisors, list) or len(divisors) != rope.dim // 2:
        raise ModelError(f"config.json: RoPE's `{name}` must list {rope.dim // 2} numbers", exit_code=16)
    frequencies = _base(rope) / np.array(divisors, dtype=np.float32)
    if "attention_factor" in rope.settings:
        return frequencies, _number(rope.settings, "attention_factor", 1.0)
    factor = rope.factor if rope.factor is not None else rope.max_positions / rope.original_max
    if factor <= 1:
        return frequencies, 1.0
    return frequencies, math.sqrt(1 + math.log(factor) / math.log(rope.original_max))


def _proportional(rope: RopeConfig, variant: int) -> tuple[Array, float]:
    fraction = _number(rope.settings, "partial_rotary_factor", 1.0)
    frequencies = _base(rope) / (rope.factor or 1.0)
    frequencies[int(fraction * rope.head_dim // 2) :] = 0.0
    return frequencies, 1.0


_OTHER_NAMES = {"su": "longrope"}
_FREQUENCIES: dict[str, Callable[[RopeConfig, int], tuple[Array, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
KINDS = tuple(_FREQUENCIES)
