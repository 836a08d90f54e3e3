"""`import tgi` costs nothing, and still offers the client that had this name before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tgi
from tgi import client, errors

OLD_ERRORS = [
    "ValidationError", "GenerationError", "OverloadedError", "IncompleteGenerationError", "BadRequestError",
    "ShardNotReadyError", "ShardTimeoutError", "NotFoundError", "RateLimitExceededError", "NotSupportedError",
    "UnknownError",
]  # fmt: skip


def test_the_old_client_and_its_errors_are_offered() -> None:
    assert (tgi.Client, tgi.AsyncClient) == (client.Client, client.AsyncClient)
    for name in OLD_ERRORS:
        assert getattr(tgi, name) is getattr(errors, name)
        assert issubclass(getattr(errors, name), Exception)
    assert set(tgi.__all__) == {"Client", "AsyncClient", *OLD_ERRORS}


def test_importing_tgi_loads_nothing_and_the_client_only_what_it_needs() -> None:
    code = (
        "import sys, tgi; heavy = {'torch', 'aiohttp', 'transformers', 'numpy', 'urllib.request', 'msgspec'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "from tgi import Client, ValidationError;"
        "assert not {'torch', 'aiohttp', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_tgi_lacks_is_an_ordinary_mistake() -> None:
    with pytest.raises(AttributeError, match="`nothing`"):
        _ = tgi.nothing
