"""Imports torch without what no inference needs: its optimisers, quantisers, distributions, rules for fake tensors.

`import torch` runs 1,100 modules. Those below `DEFERRED` come as empty modules that are run when somebody first uses
something of theirs; until then they take neither time nor memory. Names that torch's own modules import from them
meanwhile, as in `from torch.optim import Adam`, are placeholders that find the real thing in the same way. Only modules
that take no part in torch's circles of imports can be put off: of `torch.fx`, `torch.export` and `torch.func`, nothing.

Compilers need the rules for fake tensors, which nobody asks for by name: all is run before a compiler is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

KNOWN = ("2.13",)
"""Versions that were tried with all of `DEFERRED`; others are imported as they are."""

_PARTS = (
    "_meta_registrations", "_native", "ao", "distributed._meta_registrations", "distributions", "masked", "mtia",
    "nn.intrinsic", "nn.qat", "nn.quantizable", "nn.quantized", "optim", "package", "profiler", "quantization", "xpu",
)  # fmt: skip
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._export")
DEFERRED = frozenset(f"torch.{part}" for part in _PARTS)


def import_torch() -> None:
    """Import torch, without `DEFERRED` where its version is known; does nothing where it is imported already."""
    if "torch" in sys.modules:
        return
    if not importlib.metadata.version("torch").startswith(tuple(f"{known}." for known in KNOWN)):
        importlib.import_module("torch")
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    _Deferred.importing = True
    try:
        torch = importlib.import_module("torch")
        base = importlib.import_module("torch._opaque_base")
    finally:
        _Deferred.importing = False
    torch._C._set_generator_metaclass(base.OpaqueBaseMeta)  # a deferred module does this, and C++ would miss it


def is_deferred(name: str) -> bool:
    """Whether a module was put off, and nobody has used it yet."""
    return type(sys.modules.get(name)) is _Deferred


class _Deferred(ModuleType):
    """A module that has not run."""

    importing = False  # torch itself is being imported: names are asked for to be kept, not to be used

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__all__":
            raise AttributeError(f"module `{self.__name__}` has no attribute `{name}`")
        if _Deferred.importing and name != "__all__":
            return _Placeholder(self, name)
        _run(self)
        return getattr(self, name)


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
    """Finds the modules that are to be deferred; later, has them run before a compiler is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:  # fmt: skip
        """The module's place, with a loader that puts it off, while torch is being imported; else nothing."""
        if not _Deferred.importing:
            for name in sorted(DEFERRED) if fullname in _COMPILERS else ():
                _run(sys.modules.get(name))
            return None
        if fullname not in DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _run(module: ModuleType | None) -> None:
    """Run a module, if it is one that was put off."""
    if isinstance(module, _Deferred):
        object.__setattr__(module, "__class__", ModuleType)
        spec = module.__spec__
        assert spec is not None
        real = spec.loader = module.__loader__ = spec.loader_state
        real.exec_module(module)


def _real(placeholder: _Placeholder) -> Any:
    module, name = placeholder.__dict__["_module"], placeholder.__dict__["_name"]
    _run(module)
    found = module.__dict__.get(name)
    # A submodule is an attribute of its package once it is imported.
    return importlib.import_module(f"{module.__name__}.{name}") if found in (None, placeholder) else found
