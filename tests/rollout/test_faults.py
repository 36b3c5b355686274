from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import RolloutUnavailable
from codex_actors.protocol.events import AgentMessage
from codex_actors.rollout.damage import verify
from codex_actors.rollout.files import Files
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import MAX_OPEN_FILES, RolloutWriter
from tests.disks import FailingDisk

STAMP = "2026-01-08T10:11:12.000Z"
ALL = frozenset({"open", "write", "fsync", "ftruncate", "close"})
FAULTS: dict[str, tuple[frozenset[str], int, bool]] = {
    "ENOSPC": (frozenset({"write"}), errno.ENOSPC, False),
    "EIO": (ALL, errno.EIO, False),
    "short write": (frozenset({"write"}), errno.ENOSPC, True),
    "short write that stays": (frozenset({"write", "ftruncate"}), errno.ENOSPC, True),
    "failed fsync": (frozenset({"fsync"}), errno.EIO, False),
}


def texts(path: Path) -> list[str]:
    return [json.loads(line)["payload"]["message"] for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("durability", ["flush", "fsync"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_lose_nothing_and_repeat_nothing(tmp_path: Path, fault: str, durability: Any) -> None:
    kinds, code, is_short = FAULTS[fault]
    acknowledged = 0
    for period in (1, 2, 3, 4, 5, 7, 11, 17):
        disk = FailingDisk(kinds, period, code, is_short=is_short)
        writer = RolloutWriter(durability, disk)
        paths = [tmp_path / str(period) / name / "rollout.jsonl" for name in "abc"]
        acknowledged += write_all(writer, paths)
        disk.period = 0
        assert writer.write([Append(path, STAMP, (), create=False) for path in paths]) == [None] * 3
        for path in paths:
            assert texts(path) == [str(number) for number in range(40)]
            assert verify(path).checked == 40
            assert os.listdir(path.parent) == ["rollout.jsonl"]
        writer.close()
    assert acknowledged


def write_all(writer: RolloutWriter, paths: list[Path]) -> int:
    """40 lines for each; what is acknowledged is there at once. How often that was."""
    acknowledged = 0
    for number in range(0, 40, 2):
        bodies = tuple(AgentMessage(message=str(number + more)) for more in range(2))
        results = writer.write([Append(path, STAMP, bodies, create=number == 0) for path in paths])
        for path, result in zip(paths, results, strict=True):
            if result is None:
                acknowledged += 1
                assert texts(path) == [str(each) for each in range(number + 2)]
            else:
                assert isinstance(result, RolloutUnavailable)
                assert 0 < result.waiting <= number + 2
    return acknowledged


def test_a_failed_fsync_gets_a_fresh_descriptor(tmp_path: Path) -> None:
    opened: list[int] = []

    class Disk(FailingDisk):
        def open(self, path: Path | str, flags: int) -> int:
            opened.append(flags)
            return super().open(path, flags)

    disk = Disk(frozenset({"fsync"}), 0, errno.EIO)
    writer = RolloutWriter("fsync", disk)
    path = tmp_path / "rollout.jsonl"
    assert writer.write([Append(path, STAMP, (AgentMessage(message="0"),), create=True)]) == [None]
    size, disk.period = path.stat().st_size, 1
    (result,) = writer.write([Append(path, STAMP, (AgentMessage(message="1"),), create=False)])
    assert (type(result), path.stat().st_size) == (RolloutUnavailable, size)
    disk.period, before = 0, len(opened)
    assert writer.write([Append(path, STAMP, (), create=False)]) == [None]
    assert texts(path) == ["0", "1"]
    assert len(opened) == before + 1
    assert not opened[-1] & os.O_CREAT
    writer.close()


def test_a_bug_under_the_writer_costs_no_line(tmp_path: Path) -> None:
    class Buggy(Files):
        fails = 0

        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            self.fails -= 1
            if self.fails == 0:
                raise ZeroDivisionError

    disk, paths = Buggy(), [tmp_path / "rollout.jsonl", tmp_path / "other.jsonl"]
    writer = RolloutWriter("fsync", disk)
    first, second = ((AgentMessage(message=text),) for text in "01")
    assert writer.write([Append(path, STAMP, first, create=True) for path in paths]) == [None, None]
    disk.fails = 1
    result, other = writer.write([Append(path, STAMP, second, create=False) for path in paths])
    assert "ZeroDivisionError" in str(result)
    assert (other, texts(paths[0]), texts(paths[1])) == (None, ["0"], ["0", "1"])
    assert writer.write([Append(path, STAMP, (), create=False) for path in paths]) == [None, None]
    assert texts(paths[0]) == texts(paths[1]) == ["0", "1"]
    writer.close()


@pytest.mark.parametrize("change", ["grown", "cut", "replaced"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_file_that_others_changed_is_left_alone(tmp_path: Path, change: str, is_open: bool) -> None:
    writer = RolloutWriter("flush")
    path = tmp_path / "rollout.jsonl"
    writer.write([Append(path, STAMP, (AgentMessage(message="0"),), create=True)])
    if not is_open:
        others = [tmp_path / str(number) for number in range(MAX_OPEN_FILES)]
        writer.write([Append(other, STAMP, (AgentMessage(message="0"),), create=True) for other in others])
    data = path.read_bytes()
    foreign = {"grown": data + b"{}\n", "cut": data[:-9], "replaced": data * 2}[change]
    if change == "replaced":
        path.unlink()
    path.write_bytes(foreign)
    (result,) = writer.write([Append(path, STAMP, (AgentMessage(message="1"),), create=False)])
    assert isinstance(result, RolloutUnavailable)
    assert (result.errno, result.path) == (errno.ESTALE, path)
    assert "changed by another program" in str(result)
    assert path.read_bytes() == foreign
    writer.close()
    assert path.read_bytes() == foreign
    assert texts(path.with_name("rollout.jsonl.fenced")) == ["1"]
    assert writer.waiting() == {path: 1}


def test_lines_of_a_file_that_is_gone_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = RolloutWriter("flush")
    path = tmp_path / "rollout.jsonl"
    writer.write([Append(path, STAMP, (AgentMessage(message="0"),), create=True)])
    path.unlink()
    (result,) = writer.write([Append(path, STAMP, (AgentMessage(message="1"),), create=False)])
    assert isinstance(result, RolloutUnavailable)
    writer.close()
    assert os.listdir(tmp_path) == ["rollout.jsonl.fenced"]
    assert texts(tmp_path / "rollout.jsonl.fenced") == ["1"]
    assert "1 refused line(s) are in its .fenced" in caplog.text


def test_a_file_that_is_let_go_may_be_changed(tmp_path: Path) -> None:
    writer = RolloutWriter("flush")
    path = tmp_path / "rollout.jsonl"
    writer.write([Append(path, STAMP, (AgentMessage(message="0"),), create=True)])
    writer.write([Append(path, STAMP, (), create=False, is_last=True)])
    path.write_bytes(path.read_bytes() * 2)
    assert writer.write([Append(path, STAMP, (AgentMessage(message="1"),), create=False)]) == [None]
    assert texts(path) == ["0", "0", "1"]
    writer.close()


def test_ten_thousand_files_need_few_descriptors(tmp_path: Path) -> None:
    writer = RolloutWriter("flush")
    paths = [tmp_path / str(number % 100) / f"{number}.jsonl" for number in range(10_000)]
    before, most = len(os.listdir("/dev/fd")), 0
    for create in (True, False):
        for begin in range(0, len(paths), 1000):
            batch = [Append(path, STAMP, (AgentMessage(message="x"),), create) for path in paths[begin : begin + 1000]]
            assert writer.write(batch) == [None] * 1000
            most = max(most, len(os.listdir("/dev/fd")) - before)
    assert most <= MAX_OPEN_FILES <= 256
    assert texts(paths[0]) == texts(paths[-1]) == ["x", "x"]
    writer.close()


KILLED_WHILE_MAKING = """
import os, sys
from pathlib import Path
from codex_actors.protocol.events import AgentMessage
from codex_actors.rollout.files import Files
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

class Killed(Files):
    def write(self, fd, data):
        super().write(fd, data[: int(sys.argv[2])])
        os.kill(os.getpid(), 9)

line = AgentMessage(message="first")
RolloutWriter("flush", Killed()).write([Append(Path(sys.argv[1]), "2026-01-08T10:11:12.000Z", (line,), True)])
"""


@pytest.mark.parametrize("written", [0, 30, 10_000])
def test_a_file_that_is_killed_in_its_making_is_none(tmp_path: Path, written: int) -> None:
    path = tmp_path / "sessions" / "rollout.jsonl"
    command = [sys.executable, "-c", KILLED_WHILE_MAKING, str(path), str(written)]
    done = subprocess.run(command, timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, path.exists()) == (-9, False)
    writer = RolloutWriter("flush")
    assert writer.write([Append(path, STAMP, (AgentMessage(message="again"),), create=True)]) == [None]
    assert (os.listdir(path.parent), texts(path)) == (["rollout.jsonl"], ["again"])
    writer.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


@pytest.mark.parametrize("durability", ["flush", "fsync"])
def test_a_disk_that_is_really_full_heals(small_disk: Path, durability: Any) -> None:
    path, ballast = small_disk / "rollout.jsonl", small_disk / "ballast"
    writer = RolloutWriter(durability)
    ballast.write_bytes(b"." * 40_000)
    results: list[Any] = []
    for number in range(100):
        line = AgentMessage(message=f"{number}" + "." * 500)
        results += writer.write([Append(path, STAMP, (line,), create=number == 0)])
    codes = {result.errno for result in results if result is not None}
    assert codes == {errno.ENOSPC}
    assert verify(path).is_sound
    ballast.unlink()
    writer.write([Append(path, STAMP, (AgentMessage(message="100"),), create=False)])
    writer.close()
    assert [text.rstrip(".") for text in texts(path)] == [str(number) for number in range(len(texts(path)))]
    assert not writer.waiting() or len(texts(path)) < 101
