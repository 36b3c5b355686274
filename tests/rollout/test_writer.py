from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_actors.config import Durability
from codex_actors.errors import RolloutError, UnsupportedOperation
from codex_actors.protocol.events import AgentMessage, Error
from codex_actors.rollout.encode import encode_line
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import MAX_OPEN_FILES, RolloutWriter

EARLY = "2026-01-08T10:11:12.000Z"
LATE = "2026-01-08T10:11:13.000Z"


def append(path: Path, *texts: str, timestamp: str = EARLY, create: bool = False) -> Append:
    return Append(path, timestamp, tuple(AgentMessage(message=text) for text in texts), create)


def messages(path: Path) -> list[str]:
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    return [json.loads(line)["payload"]["message"] for line in data.splitlines()]


def timestamps(path: Path) -> list[str]:
    return [json.loads(line)["timestamp"] for line in path.read_bytes().splitlines()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def reason(result: RolloutError | None) -> str:
    assert result is not None
    return result.reason


@pytest.fixture(params=["memory", "flush", "fsync"])
def durability(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def writer() -> Any:
    writer = RolloutWriter("flush")
    yield writer
    writer.close()


def test_a_new_file_and_its_folders_are_private(tmp_path: Path, durability: Durability) -> None:
    writer = RolloutWriter(durability)
    path = tmp_path / "home/sessions/2026/01/08/rollout.jsonl"
    assert writer.write([append(path, "a", "b", create=True), append(path, "c")]) == [None, None]
    assert messages(path) == ["a", "b", "c"]
    assert mode(path) == 0o600
    assert {mode(folder) for folder in path.parents[:5]} == {0o700}
    writer.close()


def test_many_files_in_one_batch_keep_their_order(tmp_path: Path, writer: RolloutWriter) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    batch = [append(path, f"{n}", create=n == 0) for n in range(3) for path in (one, two)]
    assert writer.write(batch) == [None] * 6
    assert messages(one) == messages(two) == ["0", "1", "2"]
    assert writer.waiting() == {}


def refused_first(path: Path) -> Append:
    """The first lines of a file, one of which is no JSON."""
    first, bad = AgentMessage(message="first"), Error(message="bad", codex_error_info=object())
    return Append(path, EARLY, (first, bad), create=True)


def test_a_refused_first_append_makes_no_file(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    (result,) = writer.write([refused_first(path)])
    assert "cannot be put into JSON" in reason(result)
    assert writer.write([Append(path, LATE, (), create=False)]) == [None]
    writer.close()
    assert not path.exists()
    assert writer.waiting() == {}


@pytest.mark.parametrize("batches", [1, 2])
def test_the_first_line_stays_in_front(tmp_path: Path, writer: RolloutWriter, batches: int) -> None:
    path = tmp_path / "rollout.jsonl"
    appends = [refused_first(path), append(path, "next", timestamp=LATE)]
    results = writer.write(appends) if batches == 1 else [*writer.write(appends[:1]), *writer.write(appends[1:])]
    assert [result is None for result in results] == [False, True]
    assert messages(path) == ["first", "next"]
    assert timestamps(path) == [EARLY, LATE]


def test_a_file_that_exists_is_never_created(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_text("somebody else's\n")
    (result,) = writer.write([append(path, "a", create=True)])
    assert "File exists" in reason(result)
    assert path.read_text() == "somebody else's\n"


def test_a_file_that_is_missing_is_never_made(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    (result,) = writer.write([append(path, "a")])
    assert reason(result) == "cannot write the rollout (No such file or directory)"
    assert (not path.exists(), writer.waiting()) == (True, {path: 1})


def test_an_error_of_one_file_spares_the_others(tmp_path: Path, writer: RolloutWriter) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    results = writer.write([append(bad, "x"), append(good, "a", create=True), append(bad, "y"), append(good, "b")])
    assert [result and result.path for result in results] == [bad, None, bad, None]
    assert messages(good) == ["a", "b"]


def test_what_waits_is_written_first_and_once(tmp_path: Path, writer: RolloutWriter, durability: Durability) -> None:
    writer = RolloutWriter(durability)
    home = tmp_path / "home"
    home.write_text("a file where a folder should be")
    path = home / "sessions" / "rollout.jsonl"
    assert "Not a directory" in reason(writer.write([append(path, "a", create=True)])[0])
    assert "Not a directory" in reason(writer.write([append(path, "b", "c")])[0])
    assert writer.waiting() == {path: 3}
    home.unlink()
    assert writer.write([append(path, "d")]) == [None]
    assert (messages(path), writer.waiting()) == (["a", "b", "c", "d"], {})
    assert (mode(path), mode(home)) == (0o600, 0o700)
    writer.close()


def test_an_append_without_items_tries_what_waits(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a")])
    assert writer.write([append(path)])[0] is not None
    path.touch()
    assert writer.write([append(path), append(tmp_path / "never touched", create=True)]) == [None, None]
    assert messages(path) == ["a"]
    assert not (tmp_path / "never touched").exists()


def test_a_path_that_cannot_be_is_an_error(tmp_path: Path, writer: RolloutWriter) -> None:
    impossible = [tmp_path / "nul\0", tmp_path / ("x" * 300), tmp_path]
    results = writer.write([append(path, "a", create=True) for path in impossible])
    assert all("cannot write the rollout" in reason(result) for result in results)


def test_a_pipe_is_refused_and_closed(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    before = open_descriptors()
    assert "Illegal seek" in reason(writer.write([append(path, "a")])[0])
    assert open_descriptors() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_that_cannot_be_cut_heals(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    path.symlink_to("/dev/full")
    assert "No space left" in reason(writer.write([append(path, "a")])[0])
    path.unlink()
    path.write_bytes(b'{"payload":{"message":"kept"}}\n')
    assert writer.write([append(path, "b")]) == [None]
    assert messages(path) == ["kept", "a", "b"]


def test_a_deleted_file_is_an_error_not_a_hole(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a", create=True)])
    path.unlink()
    assert "No such file" in reason(writer.write([append(path, "b")])[0])
    path.touch()
    assert "changed by another program: 0 bytes" in reason(writer.write([append(path, "c")])[0])
    assert (path.read_bytes(), writer.waiting()) == (b"", {path: 2})


def test_a_renamed_file_is_followed(tmp_path: Path, writer: RolloutWriter) -> None:
    path, archived = tmp_path / "rollout.jsonl", tmp_path / "archived.jsonl"
    writer.write([append(path, "a", create=True)])
    path.rename(archived)
    assert writer.write([append(path, "b")]) == [None]
    assert messages(archived) == ["a", "b"]


@pytest.mark.parametrize("torn", [b'{"timestamp":"2026-01-08T10:11:13.000Z","type":"ev', b'{"half\n', b"\xff\x00"])
def test_a_torn_tail_is_set_aside_first(tmp_path: Path, torn: bytes, durability: Durability) -> None:
    writer = RolloutWriter(durability)
    path = tmp_path / "rollout.jsonl"
    whole = encode_line(LATE, AgentMessage(message="whole"))
    path.write_bytes(whole + torn)
    assert writer.write([append(path, "a"), append(path, "b")]) == [None, None]
    assert writer.write([append(path, "c")]) == [None]
    assert messages(path) == ["whole", "a", "b", "c"]
    assert timestamps(path) == [LATE] * 4
    (record,) = map(json.loads, (tmp_path / "rollout.jsonl.torn").read_text().splitlines())
    assert (record["start"], record["end"]) == (len(whole), len(whole) + len(torn))
    assert record["bytes"].encode("utf-8", "surrogateescape") == torn
    writer.close()


@pytest.mark.parametrize("glued", [b"", b'{"timestamp":"2026-01-08T10:11:12.000Z","type":"ev'])
def test_a_whole_last_line_only_gets_its_newline(tmp_path: Path, writer: RolloutWriter, glued: bytes) -> None:
    path = tmp_path / "rollout.jsonl"
    last = glued + encode_line(EARLY, AgentMessage(message="whole")).rstrip()
    path.write_bytes(last)
    assert writer.write([append(path, "a")]) == [None]
    assert path.read_bytes() == last + b"\n" + encode_line(EARLY, AgentMessage(message="a"))
    assert os.listdir(tmp_path) == ["rollout.jsonl"]


def test_timestamps_of_a_file_never_go_back(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a", timestamp=LATE, create=True), append(path, "b", timestamp=EARLY)])
    writer.write([append(path, "c", timestamp=EARLY)])
    assert timestamps(path) == [LATE] * 3


@pytest.mark.parametrize("length", [10, 4096, 70_000])
def test_timestamps_go_on_from_a_resumed_file(tmp_path: Path, length: int) -> None:
    path = tmp_path / "rollout.jsonl"
    for text, timestamp, create in (("first", EARLY, True), ("x" * length, LATE, False), ("c", EARLY, False)):
        writer = RolloutWriter("flush")
        assert writer.write([append(path, text, timestamp=timestamp, create=create)]) == [None]
        writer.close()
    assert timestamps(path) == [EARLY, LATE, LATE]


def test_at_most_128_files_are_open(tmp_path: Path, writer: RolloutWriter) -> None:
    paths = [tmp_path / f"{n}.jsonl" for n in range(300)]
    before = open_descriptors()
    writer.write([append(path, "a", timestamp=LATE, create=True) for path in paths])
    assert open_descriptors() - before == MAX_OPEN_FILES == 128
    writer.write([append(path, "b", timestamp=EARLY) for path in (*paths, *reversed(paths))])
    assert open_descriptors() - before == MAX_OPEN_FILES
    assert {(*messages(path), *timestamps(path)) for path in paths} == {("a", "b", "b", LATE, LATE, LATE)}
    writer.close()
    assert open_descriptors() == before


def test_what_is_no_json_is_refused_for_good(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    bad = Append(path, EARLY, (AgentMessage(message="x"), Error(message="x", codex_error_info=object())), create=False)
    results = writer.write([append(path, "a", create=True), bad, append(path, "b")])
    assert [result is None for result in results] == [True, False, True]
    assert "a line cannot be put into JSON" in reason(results[1])
    assert (messages(path), writer.waiting()) == (["a", "b"], {})


def test_close_tries_once_more_what_waits(tmp_path: Path) -> None:
    writer = RolloutWriter("flush")
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a")])
    path.touch()
    writer.close()
    writer.close()
    assert (messages(path), writer.waiting()) == (["a"], {})


def test_close_names_what_it_could_not_write(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = RolloutWriter("flush")
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a", "b")])
    with caplog.at_level(logging.ERROR, "codex_actors"):
        writer.close()
    assert [record.getMessage() for record in caplog.records] == [f"rollout {path}: 2 line(s) could not be written"]
    assert writer.waiting() == {path: 2}


def test_a_closed_writer_refuses_work(tmp_path: Path) -> None:
    writer = RolloutWriter("flush")
    writer.close()
    with pytest.raises(UnsupportedOperation, match="closed"):
        writer.write([append(tmp_path / "rollout.jsonl", "a")])


def test_half_a_line_that_stays_is_cut_off_later(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    writer.write([append(path, "a", create=True)])
    write = os.write
    with pytest.MonkeyPatch.context() as broken:
        disk = iter([lambda fd, data: write(fd, data[:70])])
        broken.setattr(os, "write", lambda fd, data: next(disk, fail)(fd, data))
        broken.setattr(os, "ftruncate", fail)
        assert "Input/output error" in reason(writer.write([append(path, "b", "c")])[0])
        assert not path.read_bytes().endswith(b"\n")
        assert "Input/output error" in reason(writer.write([append(path, "d")])[0])
    assert writer.write([append(path, "e")]) == [None]
    assert messages(path) == ["a", "b", "c", "d", "e"]


def test_a_failed_fsync_writes_anew(tmp_path: Path) -> None:
    writer = RolloutWriter("fsync")
    path = tmp_path / "new" / "rollout.jsonl"
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        assert "Input/output error" in reason(writer.write([append(path, "a", create=True)])[0])
        assert os.listdir(path.parent) == []
    assert writer.write([append(path, "b")]) == [None]
    assert messages(path) == ["a", "b"]
    writer.close()


def test_short_writes_are_finished(tmp_path: Path, writer: RolloutWriter) -> None:
    path = tmp_path / "rollout.jsonl"
    write = os.write
    with pytest.MonkeyPatch.context() as slow:
        slow.setattr(os, "write", lambda fd, data: write(fd, data[:33]))
        assert writer.write([append(path, "a", "b", create=True)]) == [None]
    assert messages(path) == ["a", "b"]


def fail(*_: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


FILE_SIZE_LIMIT = """
import json, resource, sys
from pathlib import Path
from codex_actors.protocol.events import AgentMessage
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

path = Path(sys.argv[1])
writer = RolloutWriter(sys.argv[2])
numbers = iter(range(1000))

def write(lines, appends=1, create=False):
    batch = [
        Append(path, "2026-01-08T10:11:12.000Z",
               tuple(AgentMessage(message=f"{next(numbers)}" + "." * 200) for _ in range(lines)), create)
        for _ in range(appends)
    ]
    return [error.reason if error else None for error in writer.write(batch)]

seen = {"fits": write(3, create=True)}
whole = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 500, resource.RLIM_INFINITY))
seen["torn"] = write(5)
seen["together"] = write(1, appends=2)
seen["waiting"] = writer.waiting()[path]
seen["cut_back"] = path.stat().st_size == whole
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
seen["healed"] = write(2)
seen["left"] = len(writer.waiting())
writer.close()
seen["written"] = [int(json.loads(line)["payload"]["message"].rstrip(".")) for line in path.read_text().splitlines()]
print(json.dumps(seen))
"""


def test_a_file_size_limit_heals_in_order(tmp_path: Path, durability: Durability) -> None:
    command = [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path / "rollout.jsonl"), durability]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2]
    )
    too_large = "cannot write the rollout (File too large)"
    assert json.loads(done.stdout) == {
        "fits": [None],
        "torn": [too_large],
        "together": [too_large] * 2,
        "waiting": 7,
        "cut_back": True,
        "healed": [None],
        "left": 0,
        "written": list(range(12)),
    }
