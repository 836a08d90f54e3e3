"""Bytes on their way: cuts anywhere, resumption, damage, and interruption."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, git_id
from tgi.errors import ModelError
from tgi.hub import snapshot, transfer
from tgi.hub.digests import Digests
from tgi.hub.files import ModelFiles
from tgi.hub.selection import Plan, PlannedFile
from tgi.hub.watch import Watcher

SIZE = 1_000_000
WEIGHTS = random.Random(7).randbytes(SIZE)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": WEIGHTS}


class Diary(Watcher):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.resumes: list[tuple[str, int]] = []
        self.checked: dict[str, str | None] = {}
        self.furthest: dict[str, int] = {}
        self.retries: list[str] = []

    def planned(self, plan: Plan) -> None:
        self.plan = plan

    def advanced(self, file: PlannedFile, done_bytes: int) -> None:
        self.furthest[file.path] = done_bytes

    def resumed(self, file: PlannedFile, done_bytes: int) -> None:
        self.resumes.append((file.path, done_bytes))

    def retrying(self, file: PlannedFile, reason: str) -> None:
        self.retries.append(reason)

    def verified(self, file: PlannedFile) -> None:
        self.checked[file.path] = file.sha256


def fetch(hub: FakeHub, cache: Path, watcher: Watcher | None = None) -> ModelFiles:
    return snapshot.download("owner/name", None, cache, token=None, endpoint=hub.endpoint,
                             progress=watcher or Diary(), digests=Digests(cache))  # fmt: skip


def partial(cache: Path) -> Path:
    return cache / "models--owner--name" / "blobs" / f"{SHA256}.incomplete"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_is_cut_anywhere_costs_no_byte_twice(
    seed: int, reset: bool, fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.add("owner/name", MODEL)
    chance = random.Random(seed)
    cuts = [chance.randrange(SIZE // 4) for _ in range(6)]
    fake_hub.cut("owner/name", "model.safetensors", *cuts, reset=reset)
    files = fetch(fake_hub, tmp_path)
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in fake_hub.ranges("model.safetensors")]
    assert starts == sorted(starts)
    assert fake_hub.sent["model.safetensors"] <= SIZE + len(cuts) * (64 << 10)


@pytest.mark.parametrize("at", [0, 1, 65_535, 65_536, SIZE - 1])
def test_a_download_that_failed_goes_on_from_where_it_was(at: int, fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(WEIGHTS[:at])
    diary = Diary()
    files = fetch(fake_hub, tmp_path, diary)
    assert (files.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fake_hub.sent["model.safetensors"] == SIZE - at
    assert diary.resumes == ([("model.safetensors", at)] if at else [])
    assert diary.plan is not None
    assert diary.plan.missing_bytes == sum(map(len, MODEL.values())) - at


def test_a_hub_that_ends_every_answer_is_given_up_and_the_part_is_kept(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.cut("owner/name", "model.safetensors", 300_000, *[0] * 99)
    with pytest.raises(ModelError) as refusal:
        fetch(fake_hub, tmp_path)
    assert refusal.value.exit_code == 14
    assert partial(tmp_path).read_bytes() == WEIGHTS[:262_144]
    fake_hub._faults.clear()
    diary = Diary()
    fetch(fake_hub, tmp_path, diary)
    assert diary.resumes == [("model.safetensors", 262_144)]
    assert not partial(tmp_path).exists()


def test_a_hub_that_ignores_ranges_costs_time_and_nothing_else(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.ignore_ranges = True
    fake_hub.cut("owner/name", "model.safetensors", 300_000)
    assert (fetch(fake_hub, tmp_path).folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("start", [b"x" * 1000, WEIGHTS + b"more", b"x" * SIZE], ids=["wrong", "too long", "whole"])
def test_a_damaged_part_is_fetched_again_from_the_start(start: bytes, fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(start)
    assert (fetch(fake_hub, tmp_path).folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", list(MODEL))
def test_a_file_that_is_not_what_the_hub_promised_is_named_and_removed(
    name: str, fake_hub: FakeHub, tmp_path: Path
) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.corrupt["owner/name", name] = bytes([MODEL[name][0] ^ 1]) + MODEL[name][1:]
    with pytest.raises(ModelError, match=f"`{name}` of `owner/name` is corrupt") as refusal:
        fetch(fake_hub, tmp_path)
    assert refusal.value.exit_code == 16
    key = SHA256 if name == "model.safetensors" else git_id(MODEL[name])
    assert not list(tmp_path.glob(f"models--*/blobs/{key}*"))
    assert not list(tmp_path.glob(f"models--*/snapshots/*/{name}"))
    if name == "model.safetensors":
        assert SHA256 in refusal.value.message
        assert hashlib.sha256(fake_hub.corrupt["owner/name", name]).hexdigest() in refusal.value.message
    fake_hub.corrupt.clear()
    assert (fetch(fake_hub, tmp_path).folder / name).read_bytes() == MODEL[name]


def test_every_file_is_verified_and_its_hash_remembered(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    diary = Diary()
    files = fetch(fake_hub, tmp_path, diary)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in MODEL.items()}
    assert diary.checked == hashes
    assert {name: Digests(tmp_path).get(files.folder / name) for name in MODEL} == hashes
    assert diary.furthest == {name: len(data) for name, data in MODEL.items()}


def test_files_come_side_by_side(fake_hub: FakeHub, tmp_path: Path) -> None:
    shards = {f"model-{n}.safetensors": WEIGHTS[n * 1000 :] for n in range(4)}
    fake_hub.add("owner/name", {"config.json": b"{}", "tokenizer.json": b"{ }"} | shards)
    met = threading.Barrier(4, timeout=20)

    class Meeting(Watcher):
        def advanced(self, file: PlannedFile, done_bytes: int) -> None:
            if file.path in shards and done_bytes <= 65_536:
                met.wait()  # none goes on before all four have begun

    files = fetch(fake_hub, tmp_path, Meeting())
    assert all((files.folder / name).read_bytes() == data for name, data in shards.items())


def test_a_full_disk_keeps_the_part_and_the_next_try_succeeds(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    program = (
        "import resource, signal, sys; from pathlib import Path; from tgi.hub import snapshot;"
        "from tgi.hub.digests import Digests; from tgi.errors import ModelError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, -1))\n"
        "try:\n    snapshot.download('owner/name', None, Path(sys.argv[1]), token=None, endpoint=sys.argv[2],"
        " progress=lambda *a: None, digests=Digests(Path(sys.argv[1])))\n"
        "except ModelError as error:\n    print(error.message); sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), fake_hub.endpoint]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 15, ended.stderr
    assert "no room left" in ended.stdout
    assert 0 < partial(tmp_path).stat().st_size <= 400_000
    assert (fetch(fake_hub, tmp_path).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_ctrl_c_keeps_the_part_and_says_how_to_go_on(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.stall("owner/name", "model.safetensors", 630_000)
    environment = os.environ | {"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "own")}
    command = [sys.executable, "-m", "tgi", "download", "owner/name", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        next(line for line in child.stdout if '"path": "model.safetensors"' in line and '"progress"' in line)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "`tgi download owner/name` again" in err
    assert "Traceback" not in err
    kept = tmp_path / "hub" / "models--owner--name" / "blobs" / f"{SHA256}.incomplete"
    assert WEIGHTS.startswith(kept.read_bytes())
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert '"event": "resumed"' in ended.stdout


def test_two_processes_share_the_work(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    results: list[ModelFiles] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(fake_hub, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({files.folder for files in results}) == 1
    assert fake_hub.sent["model.safetensors"] == SIZE


def test_a_xet_repository_comes_over_plain_http(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    fake_hub.xet = True
    assert (fetch(fake_hub, tmp_path).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_the_threads_end_with_the_download(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.add("owner/name", MODEL)
    before = threading.active_count()
    fetch(fake_hub, tmp_path)
    assert threading.active_count() <= before
    assert transfer.WORKERS > 1
