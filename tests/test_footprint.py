"""What a start needed is given back."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

CODE = """
import gc, json
from tgi.footprint import settle

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

blocks = [bytes(1000) for _ in range(50_000)]
last = blocks[-1]  # the heap's end stays in use: the C library keeps what is free before it
del blocks
before = resident()
settle()
print(json.dumps([before - resident(), gc.get_freeze_count() > 0]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide by themselves what to keep")
def test_the_free_heap_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    given_kib, frozen = json.loads(done.stdout)
    assert given_kib > 30_000
    assert frozen
