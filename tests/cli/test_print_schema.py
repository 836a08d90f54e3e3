"""The description is printed without loading anything."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_description_is_printed_without_a_model_or_torch() -> None:
    code = (
        "import sys\nfrom tgi.cli.main import main\n"
        "try:\n    main(['print-schema'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["openapi"] == "3.1.0"
    assert {"/generate", "/v1/chat/completions", "/vertex"} <= set(document["paths"])
