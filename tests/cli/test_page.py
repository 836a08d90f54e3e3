"""docs/cli.md is what tgi/config.py says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_flags_is_up_to_date() -> None:
    expected = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == expected, "run `python docs/generate.py`"
