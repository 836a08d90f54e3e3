"""torch without the parts that inference does not use: they are not there, and they are when somebody asks."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

import pytest

from tgi.runner.lean_torch import DEFERRED, KNOWN, import_torch

pytestmark = pytest.mark.skipif(
    not importlib.metadata.version("torch").startswith(KNOWN), reason="this torch is imported as it is"
)


def in_a_fresh_process(code: str) -> Any:
    """What `code` prints as JSON, after torch was imported as the engine does."""
    head = "import json, sys, warnings; from tgi.runner import lean_torch; lean_torch.import_torch()\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_engine_computes_without_the_parts_that_are_put_off() -> None:
    left, heavy = in_a_fresh_process(
        "import tgi.runner.runner, torch\n"
        "from tgi import kernels\n"
        "with torch.inference_mode():\n"
        "    kernels.rms_norm(torch.randn(2, 8), torch.ones(8), 1e-5).softmax(-1).sort()\n"
        "print(json.dumps([[name for name in lean_torch.DEFERRED if not lean_torch.is_deferred(name)],"
        " [name for name in ('sympy', 'torch._dynamo', 'torch._inductor', 'transformers') if name in sys.modules]]))"
    )
    assert left == [], "these were loaded"
    assert heavy == []


def test_what_was_put_off_works_when_it_is_used() -> None:
    assert in_a_fresh_process(
        "import torch\n"
        "doubled = torch.vmap(lambda x: x * 2)(torch.ones(3)).tolist()\n"
        "weight = torch.ones(2, requires_grad=True)\n"
        "weight.sum().backward()\n"
        "torch.optim.SGD([weight], lr=0.5).step()\n"
        "traced = torch.fx.symbolic_trace(torch.nn.ReLU())(torch.tensor([-1.0, 1.0])).tolist()\n"
        "print(json.dumps([doubled, weight.tolist(), traced, torch.cuda.is_initialized()]))"
    ) == [[2.0, 2.0, 2.0], [0.5, 0.5], [0.0, 1.0], False]


def test_a_name_that_does_not_exist_is_missing_as_ever() -> None:
    assert in_a_fresh_process(
        "import torch\nprint(json.dumps([hasattr(torch.optim, 'Nonsense'), hasattr(torch.func, '__wrapped__')]))"
    ) == [False, False]


def test_a_torch_that_is_there_is_left_alone() -> None:
    before = {name: sys.modules.get(name) for name in ("torch", *DEFERRED)}
    import_torch()
    assert {name: sys.modules.get(name) for name in before} == before
