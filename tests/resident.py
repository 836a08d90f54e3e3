"""How much of a file is in this process's memory."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(path: Path) -> int:
    """Bytes of a mapped file that count as this process's resident memory (Linux)."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            ours = line.endswith(str(path))
        elif ours and words[0] == "Rss:":
            total += 1024 * int(words[1])
    return total
