"""torch without the parts that inference does not use: they are not there, and they are when somebody asks."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from tgi.runner.lean_torch import DEFERRED, KNOWN, import_torch

pytestmark = pytest.mark.skipif(
    not importlib.metadata.version("torch").startswith(KNOWN), reason="this torch is imported as it is"
)


def in_a_fresh_process(code: str) -> Any:
    """What `code` prints as JSON, after torch was imported as the engine does."""
    head = (
        "import json, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from tgi.runner import lean_torch; lean_torch.import_torch()\n"
    )
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_engine_computes_without_the_parts_that_are_put_off() -> None:
    left, heavy = in_a_fresh_process(
        "import tgi.runner.runner, torch\n"
        "with torch.inference_mode():\n"
        "    torch.randn(2, 8).softmax(-1).sort()\n"
        "print(json.dumps([[name for name in lean_torch.DEFERRED if not lean_torch.is_deferred(name)],"
        " [name for name in ('sympy', 'torch._dynamo', 'torch._inductor', 'transformers') if name in sys.modules]]))"
    )
    assert left == [], "these were loaded"
    assert heavy == []


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("torch.vmap(lambda x: x * 2)(torch.ones(3)).tolist()", [2.0, 2.0, 2.0]),
        ("torch.fx.symbolic_trace(torch.nn.ReLU())(torch.tensor([-1.0, 1.0])).tolist()", [0.0, 1.0]),
        ("torch.distributions.Bernoulli(torch.ones(2)).sample().tolist()", [1.0, 1.0]),
        ("torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5).defaults['lr']", 0.5),
        ("torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()", [2, 0, 1]),
        ("repr(torch.ones(2))", "tensor([1., 1.])"),
        ("torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).tolist()", [2.0]),
        ("torch.export.export(torch.nn.ReLU(), (torch.ones(1),)).module()(torch.ones(1)).tolist()", [1.0]),
    ],
)
def test_what_was_put_off_works_when_it_is_used(use: str, expected: object) -> None:
    assert in_a_fresh_process(f"import torch; print(json.dumps({use}))") == expected


def test_a_name_that_does_not_exist_is_missing_as_ever() -> None:
    assert in_a_fresh_process(
        "import torch\nprint(json.dumps([hasattr(torch.optim, 'Nonsense'), hasattr(torch.masked, '__wrapped__')]))"
    ) == [False, False]


def test_a_torch_that_is_there_is_left_alone() -> None:
    assert sys.modules["torch"] is torch
    before = {name: sys.modules.get(name) for name in ("torch", *DEFERRED)}
    import_torch()
    assert {name: sys.modules.get(name) for name in before} == before
