"""tgi: serve, download, quantize and benchmark large language models.

`Client`, `AsyncClient` and their errors are those of TGI's old Python client, which had this name before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgi.client import AsyncClient as AsyncClient
    from tgi.client import Client as Client
    from tgi.errors import BadRequestError as BadRequestError
    from tgi.errors import GenerationError as GenerationError
    from tgi.errors import IncompleteGenerationError as IncompleteGenerationError
    from tgi.errors import NotFoundError as NotFoundError
    from tgi.errors import NotSupportedError as NotSupportedError
    from tgi.errors import OverloadedError as OverloadedError
    from tgi.errors import RateLimitExceededError as RateLimitExceededError
    from tgi.errors import ShardNotReadyError as ShardNotReadyError
    from tgi.errors import ShardTimeoutError as ShardTimeoutError
    from tgi.errors import UnknownError as UnknownError
    from tgi.errors import ValidationError as ValidationError

__version__ = "4.0.0"

_CLIENTS = ("AsyncClient", "Client")
_ERRORS = (
    "BadRequestError", "GenerationError", "IncompleteGenerationError", "NotFoundError", "NotSupportedError",
    "OverloadedError", "RateLimitExceededError", "ShardNotReadyError", "ShardTimeoutError", "UnknownError",
    "ValidationError",
)  # fmt: skip
__all__ = [*_CLIENTS, *_ERRORS]


def __getattr__(name: str) -> object:
    """The client and its errors, when they are asked for: `import tgi` loads nothing."""
    if name in _CLIENTS:
        return getattr(importlib.import_module("tgi.client"), name)
    if name in _ERRORS:
        return getattr(importlib.import_module("tgi.errors"), name)
    raise AttributeError(f"module `tgi` has no attribute `{name}`", name=name, obj=importlib.import_module("tgi"))
