from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import LocksUnsupported, RolloutError, WriterConflict
from codex_actors.protocol.events import AgentMessage
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.claims import Claims
from codex_actors.rollout.locks import is_locked, try_lock
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

ID = ThreadId("01a208d8-0411-7110-98ad-11c64cb8e715")
WAIT_S = 20.0
START = datetime(2026, 1, 8, 10, 11, 12, tzinfo=UTC)
DIES = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.claims import Claims

home, path, thread_id = Path(sys.argv[1]), Path(sys.argv[2]), ThreadId(sys.argv[3])
claims = Claims(home, lambda: datetime.now(UTC), is_synced=False)
claims.claim(path, thread_id)
claims.open(path)
os.kill(os.getpid(), 9)
"""


class Side:
    """A manager's half: its claims, and the writer that keeps to them."""

    def __init__(self, home: Path, *, late_s: float = 0.0) -> None:
        self.claims = Claims(home, lambda: START + timedelta(seconds=late_s), is_synced=False)
        self.writer = RolloutWriter("flush", claims=self.claims)

    def write(self, path: Path, *texts: str, create: bool = False, is_last: bool = False) -> RolloutError | None:
        lines = tuple(AgentMessage(message=text) for text in texts)
        return self.writer.write([Append(path, "2026-01-08T10:11:12.000Z", lines, create, is_last)])[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "2026" / "01" / "08" / f"rollout-2026-01-08T10-11-12-{ID}.jsonl"


@pytest.fixture
def sides(tmp_path: Path) -> Any:
    made = (Side(tmp_path), Side(tmp_path, late_s=90.0))
    yield made
    for side in made:
        side.writer.close()
    assert (
        not list((tmp_path / "codex_actors").rglob("*.lock")) or os.listdir(tmp_path / "codex_actors" / "writers") == []
    )


def record(home: Path) -> Path:
    return home / "codex_actors" / "owners" / f"{ID}.json"


def codex_lock(home: Path) -> Path:
    return home / "thread-writer-locks" / f"{ID}.lock"


def texts(path: Path) -> list[str]:
    return [json.loads(line)["payload"]["message"] for line in path.read_text().splitlines()]


def test_a_new_file_names_its_owner(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    assert not (tmp_path / "codex_actors").exists()
    assert sides[0].write(path, "a", create=True) is None
    owner = json.loads(record(tmp_path).read_text())
    assert (owner["pid"], owner["host"], owner["epoch"]) == (os.getpid(), os.uname().nodename, 1)
    assert owner["started"] == "2026-01-08T10:11:12.000Z"
    assert is_locked(tmp_path / "codex_actors" / "writers" / f"{owner['manager']}.lock")
    assert record(tmp_path).stat().st_mode & 0o777 == 0o600


def test_second_writer_is_told_of_the_first(path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    with pytest.raises(WriterConflict, match=f"process {os.getpid()} .* for 90 s; follow it, fork it") as caught:
        sides[1].claims.claim(path, ID)
    assert (caught.value.age, caught.value.alive) == (90.0, True)
    assert isinstance(sides[1].write(path, "b"), WriterConflict)
    assert sides[0].write(path, "c") is None
    assert texts(path) == ["a", "c"]


def test_released_thread_is_anybodys(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    assert sides[0].write(path, is_last=True) is None
    assert not record(tmp_path).exists()
    sides[1].claims.claim(path, ID)
    assert sides[1].write(path, "b") is None
    assert texts(path) == ["a", "b"]


def test_who_resumes_at_its_end_still_holds(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    sides[0].claims.claim(path, ID)
    sides[0].write(path, is_last=True)
    assert record(tmp_path).exists()
    sides[0].write(path, "b", is_last=True)
    assert not record(tmp_path).exists()


def test_dead_owner_is_not_asked(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("")
    arguments = [sys.executable, "-c", DIES, str(tmp_path), str(path), ID]
    assert subprocess.run(arguments, check=False, timeout=30).returncode == -9
    inode, left = path.stat().st_ino, os.listdir(tmp_path / "codex_actors" / "writers")
    sides[0].claims.claim(path, ID)
    assert json.loads(record(tmp_path).read_text())["epoch"] == 2
    assert path.stat().st_ino == inode
    assert left[0] not in os.listdir(tmp_path / "codex_actors" / "writers")
    assert sides[0].write(path, "a") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"manager": 7}'])
def test_a_record_without_a_name_is_a_dead_ones(tmp_path: Path, path: Path, content: bytes) -> None:
    record(tmp_path).parent.mkdir(parents=True)
    record(tmp_path).write_bytes(content)
    side = Side(tmp_path)
    side.claims.claim(path, ID)
    assert json.loads(record(tmp_path).read_text())["pid"] == os.getpid()
    side.writer.close()
    assert not record(tmp_path).exists()


def test_take_over_fences_the_owner(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    os.utime(path, (1e9, 1e9))
    inode = path.stat().st_ino
    sides[1].claims.claim(path, ID, take_over=True)
    assert (path.stat().st_ino != inode, path.stat().st_mtime, path.stat().st_mode & 0o777) == (True, 1e9, 0o600)
    refused = sides[0].write(path, "b")
    assert isinstance(refused, WriterConflict)
    assert isinstance(sides[0].write(path), WriterConflict)
    assert sides[1].write(path, "c") is None
    assert texts(path) == ["a", "c"]
    assert texts(path.with_name(path.name + ".fenced")) == ["b"]
    assert len(os.listdir(path.parent)) == 2


def test_taking_over_no_file_fences_nobody(path: Path, sides: tuple[Side, Side]) -> None:
    first, second = sides
    assert first.write(path, "one", create=True) is None
    with pytest.raises(RolloutError, match="no such rollout file"):
        second.claims.claim(path.with_name(f"rollout-2026-01-08T10-11-13-{ID}.jsonl"), ID, take_over=True)
    assert first.write(path, "two") is None


def test_failed_take_over_leaves_the_owner_alone(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    first, second = sides
    assert first.write(path, "one", create=True) is None
    (path.parent / f"{path.name}.{second.claims._home_of(path).manager}").touch()  # in the way of the copy
    with pytest.raises(RolloutError, match="File exists"):
        second.claims.claim(path, ID, take_over=True)
    assert first.write(path, "two") is None
    assert [each.suffix for each in (tmp_path / "codex_actors" / "owners").iterdir()] == [".json"]


def test_owner_that_was_left_alone_frees_its_thread(path: Path, sides: tuple[Side, Side]) -> None:
    first, second = sides
    assert first.write(path, "one", create=True) is None
    for _ in range(2):
        (path.parent / f"{path.name}.{second.claims._home_of(path).manager}").touch()
        with pytest.raises(RolloutError, match="File exists"):
            second.claims.claim(path, ID, take_over=True)
    assert first.write(path, is_last=True) is None
    second.claims.claim(path, ID)
    assert second.write(path, "two") is None


def test_fenced_owner_may_take_it_back(path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    sides[1].claims.claim(path, ID, take_over=True)
    sides[0].write(path, "b")
    with pytest.raises(WriterConflict):
        sides[0].claims.claim(path, ID, take_over=True)
    sides[0].write(path, is_last=True)
    sides[0].claims.claim(path, ID, take_over=True)
    assert sides[0].write(path, "c") is None
    assert isinstance(sides[1].write(path, "d"), WriterConflict)
    assert texts(path) == ["a", "c"]


def test_fenced_owner_hears_it_when_the_other_has_gone(path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    sides[1].claims.claim(path, ID, take_over=True)
    sides[1].writer.close()
    refused = sides[0].write(path, "b")
    assert isinstance(refused, WriterConflict)
    assert not refused.alive
    assert texts(path) == ["a"]


def test_touched_record_is_still_ours(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    record(tmp_path).chmod(0o644)
    assert sides[0].write(path, "b") is None
    assert texts(path) == ["a", "b"]


def test_file_that_somebody_replaced_gets_nothing(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    os.link(path, tmp_path / "backup")
    shutil.copy(path, tmp_path / "edited")
    os.replace(tmp_path / "edited", path)
    first, second = sides[0].write(path, "b"), sides[0].write(path)
    assert first is not None
    assert second is not None
    assert "another file has taken its place" in first.reason
    assert "changed by another program" in second.reason
    assert texts(path) == texts(tmp_path / "backup") == ["a"]


def test_codex_is_locked_out_while_open(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    assert is_locked(codex_lock(tmp_path))
    sides[0].write(path, is_last=True)
    assert not codex_lock(tmp_path).exists()


def test_thread_that_codex_has_open_is_refused(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    codex_lock(tmp_path).parent.mkdir(parents=True)
    lock = try_lock(codex_lock(tmp_path))
    assert lock is not None
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(WriterConflict, match="Codex, as it seems"):
        sides[0].claims.claim(path, ID, take_over=True)
    assert isinstance(sides[0].write(path, "a"), WriterConflict)
    assert path.read_text() == ""
    assert is_locked(codex_lock(tmp_path))
    lock.remove()


def test_lock_for_codex_goes_to_the_new_owner(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    sides[1].claims.claim(path, ID, take_over=True)
    assert sides[1].write(path, "b") is None
    sides[0].write(path, "c", is_last=True)
    assert is_locked(codex_lock(tmp_path))
    sides[1].write(path, is_last=True)
    assert not codex_lock(tmp_path).exists()


def test_home_is_where_the_file_lies(tmp_path: Path, path: Path) -> None:
    elsewhere, here = Side(tmp_path / "other"), Side(tmp_path)
    here.write(path, "a", create=True)
    with pytest.raises(WriterConflict):
        elsewhere.claims.claim(path, ID)
    elsewhere.writer.close()
    here.writer.close()
    assert not (tmp_path / "other").exists()


def test_home_without_locks_refuses_the_file(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    side = Side(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert isinstance(side.write(path, "a", create=True), LocksUnsupported)
    assert not path.exists()
    monkeypatch.undo()
    assert side.write(path) is None
    assert texts(path) == ["a"]
    side.writer.close()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, path: Path) -> None:
    (tmp_path / "codex_actors").write_text("not a folder")
    side = Side(tmp_path)
    with pytest.raises(RolloutError, match="cannot become the rollout's writer"):
        side.claims.claim(path, ID)
    side.writer.close()


def test_close_leaves_nothing_but_the_turnstiles(tmp_path: Path, path: Path) -> None:
    side = Side(tmp_path)
    side.write(path, "a", create=True)
    before = len(os.listdir("/dev/fd"))
    side.writer.close()
    files = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(files) == ["owners.lock", path.name]
    assert before - len(os.listdir("/dev/fd")) == 3


def test_nothing_is_claimed_behind_the_end(tmp_path: Path, path: Path, sides: tuple[Side, Side]) -> None:
    sides[0].write(path, "a", create=True)
    sides[0].writer.close()
    with pytest.raises(RolloutError, match="is closed"):
        sides[0].claims.claim(path, ID)
    assert os.listdir(tmp_path / "codex_actors" / "writers") == []


def test_lock_that_is_given_back_meanwhile_is_free(path: Path, sides: tuple[Side, Side]) -> None:
    claims = sides[0].claims
    sides[0].write(path, "a", create=True)
    ends = threading.Event()

    def open_and_close() -> None:
        while not ends.is_set():
            claims.closed(path)
            claims.open(path)

    other = threading.Thread(target=open_and_close)
    other.start()
    try:
        for _ in range(2_000):
            claims.claim(path, ID)
    finally:
        ends.set()
        other.join(WAIT_S)
