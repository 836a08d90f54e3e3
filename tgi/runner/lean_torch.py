"""Imports torch without what no inference needs: its compilers, exporters, quantisers, optimisers.

`import torch` runs 1,100 modules, of which tensors and their operations need half. Those below `DEFERRED` come as empty
modules that are run when somebody first uses something of theirs; until then they take neither time nor memory. Names
that torch's own modules import from them meanwhile, as in `from torch.func import vmap`, are placeholders that find the
real thing in the same way.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

KNOWN = ("2.13",)
"""Versions that were tried with all of `DEFERRED`; others are imported as they are."""

_PARTS = (
    "_higher_order_ops", "_meta_registrations", "_native", "ao", "compiler", "cuda", "distributed._meta_registrations",
    "distributions", "export", "func", "fx", "masked", "mtia", "multiprocessing", "nested",
    "nn.intrinsic", "nn.qat", "nn.quantizable", "nn.quantized", "optim", "package", "profiler", "quantization", "xpu",
)  # fmt: skip
DEFERRED = frozenset(f"torch.{part}" for part in _PARTS)


def import_torch() -> None:
    """Import torch, without `DEFERRED` where its version is known; does nothing where it is imported already."""
    if "torch" in sys.modules:
        return
    version = importlib.metadata.version("torch")
    with _deferring() if version.startswith(tuple(f"{known}." for known in KNOWN)) else nullcontext():
        importlib.import_module("torch")


def is_deferred(name: str) -> bool:
    """Whether a module was put off, and nobody has used it yet."""
    return type(sys.modules.get(name)) is _Deferred


@contextmanager
def _deferring() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    _Deferred.importing = True
    try:
        yield
    finally:
        _Deferred.importing = False
        sys.meta_path.remove(finder)


class _Deferred(ModuleType):
    """A module that has not run."""

    importing = False  # torch itself is being imported: names are asked for to be kept, not to be used

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__all__":
            raise AttributeError(f"module `{self.__name__}` has no attribute `{name}`")
        if _Deferred.importing and name != "__all__":
            return _Placeholder(self, name)
        return getattr(_run(self), name)


class _Placeholder:
    """Stands for a name in a deferred module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.__dict__.update(_module=module, _name=name, __name__=name, __module__=module.__name__)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _real(self)(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(_real(self), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_real(self),)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, _real(self))


class _Loader(Loader):
    """Makes a module that runs later."""

    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module with the attributes that importing gives one."""
        module = _Deferred(spec.name)
        module.__file__ = spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        spec.loader_state = self._real
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing, yet."""


class _Finder(MetaPathFinder):
    """Finds the modules that are to be deferred."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:  # fmt: skip
        """The module's place, with a loader that puts it off; None for all others."""
        if fullname not in DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _run(module: ModuleType) -> ModuleType:
    """The module, run if it was not."""
    if isinstance(module, _Deferred):
        object.__setattr__(module, "__class__", ModuleType)
        spec = module.__spec__
        assert spec is not None
        real = spec.loader = module.__loader__ = spec.loader_state
        real.exec_module(module)
    return module


def _real(placeholder: _Placeholder) -> Any:
    module, name = placeholder.__dict__["_module"], placeholder.__dict__["_name"]
    found = _run(module).__dict__.get(name)
    # A submodule is an attribute of its package once it is imported.
    return importlib.import_module(f"{module.__name__}.{name}") if found in (None, placeholder) else found
