"""The front end does without the libraries that compute: they are the engine's, and its memory."""

from __future__ import annotations

import sys

import psutil
import pytest

from tests.live import LiveServer

COMPUTE = ("numpy", "torch", "scipy", "openblas")


@pytest.mark.skipif(sys.platform != "linux", reason="reads mapped files as Linux shows them")
@pytest.mark.parametrize(
    "parameters",
    [
        {"details": True, "decoder_input_details": True, "top_n_tokens": 3},
        {"do_sample": True, "temperature": 0.7, "seed": 1, "stop": ["\n"]},
        {"grammar": {"type": "regex", "value": "[0-9]{2}"}},
    ],
)
def test_no_request_makes_the_front_end_load_what_computes(
    live_server: LiveServer, parameters: dict[str, object]
) -> None:
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 4, **parameters}}
    assert live_server.post("/generate", body)["generated_text"]
    files = [mapped.path for mapped in psutil.Process(live_server.process.pid).memory_maps()]
    assert any("tokenizers" in path for path in files)
    assert [path for path in files if any(name in path for name in COMPUTE)] == []
