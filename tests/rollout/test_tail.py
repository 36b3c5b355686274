from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import EventMsgLine
from codex_actors.rollout.tail import CHUNK_BYTES, Tail


def line(text: str) -> str:
    payload = {"type": "agent_message", "message": text}
    return json.dumps({"timestamp": "2026-01-08T10:11:12.000Z", "type": "event_msg", "payload": payload}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def texts(tail: Tail) -> list[str]:
    return [item.payload.message for item in tail.read() if isinstance(item, EventMsgLine)]  # type: ignore[union-attr]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rollout.jsonl"
    path.write_text(line("old"))
    return path


def test_only_new_lines_are_read_once(path: Path) -> None:
    tail = Tail(path, from_start=False)
    assert texts(tail) == []
    append(path, line("a") + line("b"))
    assert texts(tail) == ["a", "b"]
    assert texts(tail) == []


def test_from_the_start_all_are_read(path: Path) -> None:
    append(path, line("a"))
    assert texts(Tail(path, from_start=True)) == ["old", "a"]


def test_half_a_line_waits_for_the_rest(path: Path) -> None:
    tail, whole = Tail(path, from_start=False), line("whole")
    append(path, whole[:20])
    assert texts(tail) == []
    append(path, whole[20:])
    assert texts(tail) == ["whole"]


def test_a_long_line_is_read_whole(path: Path) -> None:
    tail = Tail(path, from_start=False)
    append(path, line("x" * 3 * CHUNK_BYTES) + line("next"))
    assert [len(text) for text in texts(tail)] == [3 * CHUNK_BYTES, 4]


def test_lines_written_anew_come_once(path: Path) -> None:
    tail, size = Tail(path, from_start=False), path.stat().st_size
    append(path, line("a"))
    assert texts(tail) == ["a"]
    os.truncate(path, size)
    assert texts(tail) == []
    append(path, line("a") + line("b"))
    assert texts(tail) == ["b"]


def test_a_taken_over_file_is_followed(path: Path, tmp_path: Path) -> None:
    tail = Tail(path, from_start=False)
    append(path, line("a"))
    assert texts(tail) == ["a"]
    (tmp_path / "copy").write_bytes(path.read_bytes())
    os.replace(tmp_path / "copy", path)
    append(path, line("b"))
    assert texts(tail) == ["b"]


def replace_by(path: Path, content: str) -> None:
    (path.parent / "copy").write_text(content)
    os.replace(path.parent / "copy", path)


def test_new_lines_stand_where_unkept_ones_were(path: Path) -> None:
    tail = Tail(path, from_start=False)
    append(path, line("kept") + line("unkept"))
    assert texts(tail) == ["kept", "unkept"]
    replace_by(path, line("old") + line("kept") + line("of the new owner") + line("more"))
    assert texts(tail) == ["of the new owner", "more"]


def test_a_salvaged_file_is_followed(path: Path) -> None:
    path.write_text("{damaged\n" + line("a"))
    tail = Tail(path, from_start=True)
    assert texts(tail) == ["a"]
    replace_by(path, line("a") + line("b"))
    assert texts(tail) == ["b"]


@pytest.mark.parametrize("content", ["", line("another")])
def test_file_without_the_last_lines_is_refused(path: Path, content: str) -> None:
    tail = Tail(path, from_start=False)
    replace_by(path, content)
    with pytest.raises(RolloutError, match="follow it anew"):
        tail.read()


def test_path_with_a_nul_byte_is_refused() -> None:
    with pytest.raises(RolloutError, match="embedded null"):
        Tail(Path("a\0b"), from_start=True)


def test_a_broken_line_costs_itself_only(path: Path) -> None:
    tail = Tail(path, from_start=False)
    append(path, "{broken\n\n" + line("a"))
    assert texts(tail) == ["a"]


def test_a_file_that_is_gone_is_named(path: Path) -> None:
    tail = Tail(path, from_start=False)
    path.unlink()
    with pytest.raises(RolloutError, match="cannot follow the rollout"):
        tail.read()
