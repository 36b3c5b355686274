from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import RolloutError
from codex_actors.protocol.events import AgentMessage
from codex_actors.protocol.history import SessionMeta
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout import salvage as salvage_command
from codex_actors.rollout import verify as verify_command
from codex_actors.rollout.damage import Damage, report_of, salvage, torn_path, verify
from codex_actors.rollout.encode import crc_holds, encode_line
from codex_actors.rollout.load import load_rollout
from codex_actors.rollout.pieces import pieces
from codex_actors.rollout.reader import get_rollout_history

STAMP = "2026-01-08T10:11:12.000Z"
META = SessionMeta(
    id=ThreadId("0193b5b8-0000-7000-8000-000000000001"), timestamp=STAMP, cwd="/", originator="o", cli_version="0"
)
LINES = [encode_line(STAMP, META), *(encode_line(STAMP, AgentMessage(message=str(n))) for n in range(199))]
FILE = b"".join(LINES)
BARE = [line[: line.rindex(b',"crc":')] + b"}\n" for line in LINES]


def looked_at(data: bytes) -> tuple[list[bytes], tuple[Damage, ...]]:
    """The sound lines without their newlines, and the damage."""
    found = list(pieces(io.BytesIO(data)))
    sound = [piece.data.rstrip(b"\n") for piece in found if not piece.what and not piece.data.isspace()]
    return sound, report_of(Path("rollout.jsonl"), found).damages


def sound_lines(data: bytes) -> list[bytes]:
    return looked_at(data)[0]


def damages(data: bytes) -> tuple[Damage, ...]:
    return looked_at(data)[1]


def without_ends(lines: Iterable[bytes]) -> list[bytes]:
    return [line.rstrip(b"\n") for line in lines]


def places(number: int) -> range:
    """The bytes of a line."""
    start = sum(map(len, LINES[:number]))
    return range(start, start + len(LINES[number]))


def neighbours(number: int, is_whole: bool) -> tuple[int, int]:
    """Which lines are looked at: all for some of the bytes, else the nearest (no line is looked at with others)."""
    return (0, len(LINES)) if is_whole else (max(0, number - 2), min(len(LINES), number + 3))


def test_each_flipped_byte_costs_its_line_only() -> None:
    rest = without_ends(LINES)
    rng = random.Random(1)
    for number in range(len(LINES)):
        for place in places(number):
            begin, end = neighbours(number, is_whole=rng.random() < 0.02)
            offset = places(begin).start
            damaged = bytearray(FILE[offset : places(end - 1).stop])
            damaged[place - offset] ^= rng.randrange(1, 256)
            sound, (damage,) = looked_at(bytes(damaged))
            is_newline = place == places(number).stop - 1
            assert sound == (rest[begin:end] if is_newline else [*rest[begin:number], *rest[number + 1 : end]])
            assert places(number).start <= damage.start + offset <= place < damage.end + offset <= places(number).stop


def test_each_cut_keeps_every_whole_line() -> None:
    rest = without_ends(LINES)
    for number in range(len(LINES)):
        for place in places(number):
            begin = neighbours(number, is_whole=place % 50 == 0)[0]
            offset, start = places(begin).start, places(number).start - places(begin).start
            sound, damage = looked_at(FILE[offset:place])
            is_whole, size = place == places(number).stop - 1, place - offset
            assert sound == rest[begin : number + is_whole]
            if is_whole:
                assert damage == (Damage(size, size, number + 1 - begin, "no newline at the end"),)
            elif size > start:
                assert damage == (Damage(start, size, number + 1 - begin, "no JSON"),)
            else:
                assert bool(damage) == (place == 0)


def said_in(path: Path, is_streamed: bool) -> list[str]:
    if is_streamed:
        events = load_rollout(path).events or ()
        return [event.message for event in events if isinstance(event, AgentMessage)]
    read = get_rollout_history(path).get_rollout_items()
    return [item.payload.message for item in read[1:]]  # type: ignore[union-attr]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["items", "streamed"])
def test_readers_keep_what_was_not_touched(tmp_path: Path, is_streamed: bool) -> None:
    path = tmp_path / "rollout.jsonl"
    rng = random.Random(2)
    for _ in range(500):
        number = rng.randrange(1, len(LINES))
        place = rng.choice(places(number))
        path.write_bytes(FILE[:place] + bytes([FILE[place] ^ rng.randrange(1, 256)]) + FILE[place + 1 :])
        is_newline = place == places(number).stop - 1
        assert said_in(path, is_streamed) == [str(each) for each in range(199) if is_newline or each != number - 1]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["items", "streamed"])
def test_readers_find_lines_that_were_joined(
    tmp_path: Path, is_streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rollout.jsonl"
    torn, joined = BARE[3][:50], BARE[7].rstrip(b"\n")
    path.write_bytes(b"".join([*BARE[:3], torn, *BARE[4:7], joined, *BARE[8:]]))
    assert said_in(path, is_streamed) == [str(each) for each in range(199) if each != 2]
    assert caplog.messages == [f"rollout {path}: skipped 1 broken line(s): 4"]


def test_a_line_written_anew_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_text("".join(json.dumps(json.loads(line)) + "\n" for line in LINES))
    assert verify(path).is_sound
    assert said_in(path, True) == said_in(path, False) == [str(each) for each in range(199)]


@pytest.mark.parametrize("lines", [LINES, BARE], ids=["with a crc", "without"])
def test_a_joined_or_split_line_is_one_range(lines: list[bytes]) -> None:
    before, middle, after = b"".join(lines[:5]), lines[5], b"".join(lines[6:])
    split = before + middle[:40] + b"\n" + middle[41:] + after
    (damage,) = damages(split)
    assert (damage.start, damage.end, damage.line) == (len(before), len(before) + len(middle), 6)
    joined = before + middle[:60] + after
    (damage,) = damages(joined)
    assert (damage.start, damage.end) == (len(before), len(before) + 60)
    assert sound_lines(joined) == without_ends([*lines[:5], *lines[6:]])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"[1]\n", "no line of a rollout"),
        (b'{"type":1}\n', "no line of a rollout"),
        (b'{"type":"event_msg","payload":{}\n', "no JSON"),
        (b'{"type":"event_msg","text":"\xff"}\n', "no JSON"),
        (b"\0\0\0\0\n", "no JSON"),
        (b'{"type":"event_msg","payload":{},"crc":"x"}\n', "its crc does not match"),
        (b'{"type":"event_msg","payload":{},"crc":17}\n', "its crc does not match"),
        (LINES[3].replace(b'"crc"', b'"cRc"'), "its crc does not match"),
    ],
)
def test_damage_of_a_line_has_its_name(line: bytes, what: str) -> None:
    assert [damage.what for damage in damages(LINES[0] + line + LINES[1])] == [what]


def test_foreign_lines_and_blank_ones_are_sound() -> None:
    data = b"".join(BARE[:2]) + b"\n  \n" + b'{"type":"x","payload":{"crc":1}}\r\n' + LINES[2]
    report = report_of(Path("x"), pieces(io.BytesIO(data)))
    assert (report.damages, report.lines, report.checked, report.size_bytes) == ((), 4, 1, len(data))
    assert crc_holds(BARE[0]) is None


def test_salvage_copies_and_sets_aside(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    bad = b'{"half":\xff\n'
    path.write_bytes(LINES[0] + bad + LINES[1] + LINES[2][:-1])
    path.chmod(0o640)
    inode = path.stat().st_ino
    report = salvage(path)
    assert (report.is_applied, path.stat().st_ino, len(os.listdir(tmp_path))) == (False, inode, 1)
    report = salvage(path, apply=True)
    assert (report.is_applied, len(report.damages)) == (True, 2)
    assert path.read_bytes() == b"".join(LINES[:3])
    assert path.stat().st_mode & 0o777 == 0o640
    (record,) = map(json.loads, torn_path(path).read_text().splitlines())
    assert record["bytes"].encode("utf-8", "surrogateescape") == bad
    assert (record["start"], record["end"]) == (len(LINES[0]), len(LINES[0] + bad))
    assert verify(path).is_sound
    assert sorted(os.listdir(tmp_path)) == ["rollout.jsonl", "rollout.jsonl.torn"]


def test_a_sound_file_is_not_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(FILE)
    before = path.stat()
    assert not salvage(path, apply=True).is_applied
    assert path.stat() == before


def test_nothing_is_made_of_no_sound_line(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(RolloutError, match="no line of it is sound"):
        salvage(path, apply=True)
    assert os.listdir(tmp_path) == ["rollout.jsonl"]


@pytest.mark.parametrize("command", [verify_command.main, salvage_command.main])
def test_commands_tell_by_text_and_exit_code(tmp_path: Path, capsys: Any, command: Any) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(FILE)
    bad.write_bytes(LINES[0] + b"torn")
    assert command([str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: sound, 200 lines (200 with a crc)\n"
    assert command([str(good), str(bad)]) == 1
    start = len(LINES[0])
    assert f"bytes {start} to {start + 4} (line 2): no JSON" in capsys.readouterr().out
    assert command([str(good), str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert command(["--json", str(bad)]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["damages"] == [{"start": start, "end": start + 4, "line": 2, "what": "no JSON"}]


def test_modules_run_without_any_extra(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(LINES[0] + b"torn")
    for module, options, code in (("verify", [], 1), ("salvage", ["--apply"], 0), ("verify", [], 0)):
        command = [sys.executable, "-m", f"codex_actors.rollout.{module}", *options, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
        assert (done.returncode, done.stderr) == (code, ""), done.stdout
    assert path.read_bytes() == LINES[0]
