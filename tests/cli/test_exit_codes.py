"""Every exit code that can be met is explained."""

from __future__ import annotations

import re
from pathlib import Path

from tgi.cli.exit_codes import EXIT_CODES

ROOT = Path(__file__).parents[2]


def test_every_code_that_the_program_uses_has_a_meaning() -> None:
    used = {int(code) for file in (ROOT / "tgi").rglob("*.py")
            for code in re.findall(r"exit_code\s*=\s*(\d+)", file.read_text(encoding="utf-8"))}  # fmt: skip
    assert used <= set(EXIT_CODES)


def test_the_page_of_flags_lists_them() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"| {code} | {meaning} |" in page for code, meaning in EXIT_CODES.items())
