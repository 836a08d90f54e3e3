"""What a start needed is given back, and what runs afterwards is as before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tgi.footprint import _code

CODE = """
import gc, json, re, zlib
import numpy
from tgi.footprint import settle

def resident():
    text = open("/proc/self/smaps").read()
    return sum(int(kb) for kb in re.findall(r" r-xp .*\\.so.*\\n(?:.*\\n)*?Rss: +(\\d+)", text))

numpy.linalg.inv(numpy.eye(32)), zlib.compress(bytes(1000))
before = resident()
settle()
after = resident()
print(json.dumps([before, after, numpy.linalg.inv(2 * numpy.eye(2)).tolist(), gc.get_freeze_count() > 0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident pages as Linux shows them")
def test_code_that_only_the_start_ran_is_not_resident_and_runs_again() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after, inverse, frozen = json.loads(done.stdout)
    assert after < before / 2
    assert inverse == [[0.5, 0.0], [0.0, 0.5]]
    assert frozen


MAPPINGS = """\
1000-3000 r-xp 00000000 fe:00 1 /lib/clean.so
Size:                  8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-4000 r-xp 00000000 fe:00 1 /lib/patched.so
Anonymous:             4 kB
4000-5000 r--p 00000000 fe:00 1 /lib/relocated.so
Anonymous:             0 kB
5000-6000 rw-p 00000000 fe:00 1 /lib/data.so
Anonymous:             0 kB
6000-7000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
"""


def test_only_a_files_code_that_nobody_wrote_into_is_given_back() -> None:
    assert list(_code(MAPPINGS)) == [(0x1000, 0x2000)]
