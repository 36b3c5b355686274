from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors.rollout.damage import verify
from codex_actors.rollout.verify import main

THREAD = "0193b5b8-0000-7000-8000-000000000001"
NAME = f"rollout-2026-01-08T10-11-12-{THREAD}.jsonl"
META = {
    "id": THREAD,
    "timestamp": "2026-01-08T10:11:12.000Z",
    "cwd": "/",
    "originator": "o",
    "cli_version": "0",
    "source": "cli",
}


def line(kind: str, payload: dict[str, Any], second: int = 12, **more: Any) -> bytes:
    value = {"timestamp": f"2026-01-08T10:11:{second}.000Z", **more, "type": kind, "payload": payload}
    return json.dumps(value).encode() + b"\n"


def looked_at(folder: Path, *lines: bytes, name: str = NAME) -> tuple[tuple[str, ...], tuple[str, ...]]:
    path = folder / name
    path.write_bytes(b"".join(lines))
    report = verify(path)
    assert report.is_sound
    return report.problems, report.notes


def paginated(*ordinals: int | None, base: int = 0) -> list[bytes]:
    meta: dict[str, Any] = {**META, "history_mode": "paginated"}
    if base:
        meta["history_base"] = {"thread_id": THREAD, "end_ordinal_exclusive": base}
    numbers: list[dict[str, Any]] = [{} if each is None else {"ordinal": each} for each in ordinals]
    return [line("session_meta", meta, **numbers[0]), *(line("event_msg", {}, **more) for more in numbers[1:])]


def test_file_that_codex_takes_has_no_problem(tmp_path: Path) -> None:
    assert looked_at(tmp_path, line("session_meta", META), line("event_msg", {}, 13)) == ((), ())


@pytest.mark.parametrize("field", ["id", "timestamp", "cwd", "originator", "cli_version"])
def test_meta_without_a_field_is_a_problem(field: str, tmp_path: Path) -> None:
    (problem,), _ = looked_at(tmp_path, line("session_meta", {**META, field: None}))
    assert problem == f"line 1: the session_meta has no text in {field}"


def test_file_without_meta_first_is_a_problem(tmp_path: Path) -> None:
    (problem,), _ = looked_at(tmp_path, line("event_msg", {}), line("session_meta", META))
    assert problem.startswith("line 1: the first line is no session_meta")


def test_name_of_another_thread_is_a_problem(tmp_path: Path) -> None:
    (problem,), _ = looked_at(tmp_path, line("session_meta", META), name=NAME.replace("01.jsonl", "02.jsonl"))
    assert (THREAD in problem, THREAD[:-1] + "2" in problem) == (True, True)
    assert looked_at(tmp_path, line("session_meta", META), name="copy.jsonl") == ((), ())


def test_source_that_codex_cannot_know_is_told(tmp_path: Path) -> None:
    assert looked_at(tmp_path, line("session_meta", {**META, "source": 7}))[0]
    problems, notes = looked_at(tmp_path, line("session_meta", {**META, "source": {"subagent": "review"}}))
    assert (problems, len(notes)) == ((), 1)


def test_ordinals_of_a_paginated_file_are_checked(tmp_path: Path) -> None:
    assert looked_at(tmp_path, *paginated(0, 1, 2)) == ((), ())
    assert looked_at(tmp_path, *paginated(5, 6, base=5)) == ((), ())
    assert looked_at(tmp_path, *paginated(0, 1, 3, 4)) == ((), ("line 3: the ordinal leaves a gap: 3 where 2 is due",))
    assert looked_at(tmp_path, *paginated(0, 1, 1)) == ((), ("line 3: the ordinal goes back: 1 where 2 is due",))
    assert looked_at(tmp_path, *paginated(0, None, 2))[0] == ()


def test_last_line_without_ordinal_is_a_problem(tmp_path: Path) -> None:
    (problem,), _ = looked_at(tmp_path, *paginated(0, 1, None))
    assert problem == "line 3: the last line of a paginated file has no ordinal"


def test_time_that_goes_back_is_a_note(tmp_path: Path) -> None:
    problems, notes = looked_at(tmp_path, line("session_meta", META, 20), line("event_msg", {}, 19))
    assert (problems, notes) == ((), ("line 2: its time is before that of line 1",))


def test_command_tells_problems_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"".join(paginated(0, None)))
    assert main([str(path)]) == 1
    assert "but Codex would not resume it, 2 lines" in capsys.readouterr().out
    assert main(["--json", str(path)]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["is_sound"], told["is_resumable"], len(told["problems"])) == (True, False, 1)


def test_captured_files_have_no_problem(shared_dir: Path) -> None:
    found = sorted((shared_dir / "codex" / "rollouts").rglob("*.jsonl"))
    assert [(path.name, verify(path).problems) for path in found if verify(path).problems] == []
