"""Hashes are git's and sha256sum's, and what is remembered ends with the file's content."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tgi.hub.digests import Digests, git_id_of, sha1_of, sha256_of


def test_checksums_are_those_of_their_own_tools(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content\n" * 300_000)
    told: list[int] = []
    assert sha256_of(path, told.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told[-1] == path.stat().st_size
    assert sha1_of(path) == hashlib.sha1(path.read_bytes()).hexdigest()
    git = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True)
    assert git_id_of(path) == git.stdout.strip()


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"one")
    link.symlink_to(path)
    digests = Digests(tmp_path / "own")
    assert digests.get(path) is None
    digests.remember(path, "0" * 64)
    digests.save()
    assert Digests(tmp_path / "own").get(link) == "0" * 64
    path.write_bytes(b"two")
    os.utime(path, (1, 1))
    assert Digests(tmp_path / "own").get(path) is None


def test_a_damaged_or_unwritable_memory_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{")
    digests = Digests(tmp_path)
    path = tmp_path / "gone"
    path.touch()
    digests.remember(path, "0" * 64)
    path.unlink()
    assert digests.get(path) is None
    digests.save()
    assert (tmp_path / "digests.json").read_text() == "{}"
    (tmp_path / "file").touch()
    Digests(tmp_path / "file").save()
