from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import InputAcceptedLine, ResponseItemLine, Resumed
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import Verbatim
from codex_actors.rollout.reader import get_rollout_history, rollout_path_of, thread_id_of_path
from codex_actors.rollout.replay import session_meta

THREAD_ID = ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39")
OTHER_ID = ThreadId("01a208d7-f031-7f60-9ce4-26bbff0dc769")


def wire(type_: str, payload: Any) -> bytes:
    line = {"timestamp": "2026-01-08T10:11:12.123Z", "type": type_, "payload": payload}
    return json.dumps(line).encode() + b"\n"


def meta(thread_id: str = THREAD_ID, **fields: Any) -> bytes:
    payload = {"id": thread_id, "timestamp": "t", "cwd": "/", "originator": "x", "cli_version": "0"}
    return wire("session_meta", {**payload, **fields})


def said(text: str) -> bytes:
    content = [{"type": "input_text", "text": text}]
    return wire("response_item", {"type": "message", "role": "user", "content": content})


def read(path: Path, data: bytes) -> Resumed:
    path.write_bytes(data)
    history = get_rollout_history(path)
    assert isinstance(history, Resumed)
    return history


def texts(history: Resumed) -> list[str]:
    return [item.payload.text for item in history.history if isinstance(item, ResponseItemLine)]  # type: ignore[union-attr]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout.jsonl"


def test_a_rollout_reads_as_resumed(path: Path) -> None:
    history = read(path, meta() + said("one") + said("two"))
    assert (history.conversation_id, history.rollout_path) == (THREAD_ID, path)
    assert texts(history) == ["one", "two"]
    assert get_rollout_history(str(path)) == history


def test_the_first_meta_gives_the_id(path: Path) -> None:
    assert read(path, said("before") + meta() + meta(OTHER_ID)).conversation_id == THREAD_ID


def test_a_paginated_meta_is_exposed(path: Path) -> None:
    base = {"thread_id": OTHER_ID, "end_ordinal_exclusive": 4}
    found = session_meta(read(path, meta(history_mode="paginated", history_base=base)).history)
    assert found is not None
    assert found.history_mode == "paginated"
    assert found.model_extra == {"history_base": base}


@pytest.mark.parametrize(
    ("broken", "skipped"),
    [
        (b"\n  \n\r\n", ""),
        (b"{not json}\n", "2"),
        (b'[1]\n3\n"x"\nnull\n', "2, 3, 4, 5"),
        (b'{"payload":{}}\n{"type":7,"payload":{}}\n', "2, 3"),
        (b'{"type":"event_msg","payload":{"x":"\xff\xfe"}}\n', "2"),
        (b'{"type":"event_msg","payload":"\\ud800"}\n', "2"),
    ],
)
def test_broken_lines_are_skipped_and_named(
    path: Path, caplog: pytest.LogCaptureFixture, broken: bytes, skipped: str
) -> None:
    with caplog.at_level(logging.WARNING, "codex_actors"):
        assert texts(read(path, meta() + broken + said("after"))) == ["after"]
    warnings = [record.getMessage() for record in caplog.records]
    count = len(skipped.split(","))
    assert warnings == ([f"rollout {path}: skipped {count} broken line(s): {skipped}"] if skipped else [])


def test_many_broken_lines_make_one_short_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "codex_actors"):
        read(path, meta() + b"x\n" * 25)
    (record,) = caplog.records
    assert record.getMessage().endswith("20, 21 and 5 more")


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_skipped(path: Path, cut: int) -> None:
    assert texts(read(path, meta() + said("whole") + said("torn in \u20ac")[:-cut])) in (
        ["whole"],
        ["whole", "torn in \u20ac"],
    )


def test_a_last_line_without_newline_counts(path: Path) -> None:
    assert texts(read(path, meta() + said("last").rstrip())) == ["last"]


@pytest.mark.parametrize(
    "line",
    [
        wire("world_state", {"full": True, "nothing": None}),
        wire("response_item", {"type": "message", "role": "user", "content": "a plain string"}),
        wire("event_msg", {"type": "user_message"}),
        wire("turn_context", None),
        wire("session_meta", {"id": "no uuid"}),
        b'{"type":"compacted"}\n',
        b'{"type":"raw","raw":{"raw":{}}}\n',
    ],
)
def test_a_line_that_does_not_fit_is_kept_verbatim(path: Path, line: bytes) -> None:
    *_, last = read(path, meta() + line).history
    assert isinstance(last, Verbatim)
    assert last.raw == json.loads(line)


def test_our_own_lines_are_known(path: Path) -> None:
    payload = {"type": "input_accepted", "submission_id": "7", "items": [{"type": "text", "text": "x"}]}
    *_, last = read(path, meta() + wire("codex_actors", payload)).history
    assert isinstance(last, InputAcceptedLine)
    assert last.payload.submission_id == "7"


@pytest.mark.parametrize("data", [b"", b" \n\t\n"])
def test_an_empty_file_is_refused(path: Path, data: bytes) -> None:
    with pytest.raises(RolloutError, match=r"^empty session file: "):
        read(path, data)


@pytest.mark.parametrize("data", [said("no meta"), b"plain text\n", wire("session_meta", {"id": "no uuid"})])
def test_a_file_without_a_meta_is_refused(path: Path, data: bytes) -> None:
    with pytest.raises(RolloutError, match=r"^failed to parse thread ID from rollout file: ") as caught:
        read(path, data)
    assert caught.value.path == path


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    with pytest.raises(RolloutError, match="not UTF-8 text"):
        read(path, b"SQLite format 3\x00\x10\x00\xff\xfe")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="no such rollout file"):
        get_rollout_history(tmp_path / "none.jsonl")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="a folder, not a rollout file"):
        get_rollout_history(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_an_impossible_name_is_refused(name: str) -> None:
    with pytest.raises(RolloutError, match="cannot read the rollout"):
        get_rollout_history(name)


def kept(home: Path, day: str, time: str, thread_id: str) -> Path:
    path = home / "sessions" / day / f"rollout-{day.replace('/', '-')}T{time}-{thread_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_newest_rollout_of_an_id_is_found(tmp_path: Path) -> None:
    kept(tmp_path, "2025/12/31", "23-59-59", THREAD_ID)
    kept(tmp_path, "2026/01/08", "09-00-00", THREAD_ID)
    newest = kept(tmp_path, "2026/01/08", "10-00-00", THREAD_ID)
    kept(tmp_path, "2026/02/01", "00-00-00", OTHER_ID)
    assert rollout_path_of(tmp_path, THREAD_ID) == newest
    assert rollout_path_of(str(tmp_path), THREAD_ID.upper()) == newest


def test_only_the_exact_id_is_found(tmp_path: Path) -> None:
    kept(tmp_path, "2026/01/08", "10-00-00", f"{THREAD_ID}_2")
    kept(tmp_path, "2026/01/08", "10-00-00", f"{OTHER_ID}-{THREAD_ID}")
    (tmp_path / "sessions" / "a file.txt").touch()
    (tmp_path / "sessions/2026/01/08" / f"rollout-2026-01-08T11-00-00-{THREAD_ID}.jsonl").mkdir()
    for wanted in (THREAD_ID, "not an id", ""):
        assert rollout_path_of(tmp_path, wanted) is None


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert rollout_path_of(tmp_path / "none", THREAD_ID) is None


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sessions").symlink_to("sessions")
    with pytest.raises(RolloutError, match="cannot look for rollouts"):
        rollout_path_of(tmp_path, THREAD_ID)


@pytest.mark.parametrize(
    ("name", "thread_id"),
    [
        (f"rollout-2026-01-08T10-11-12-{THREAD_ID}.jsonl", THREAD_ID),
        (f"/somewhere/rollout-2026-01-08T10-11-12-{THREAD_ID.upper()}.jsonl", THREAD_ID),
        (f"rollout-2026-01-08T10-11-12-{THREAD_ID}_1.jsonl", None),
        (f"rollout-2026-01-08T10-11-12-{THREAD_ID}.jsonl.bak", None),
        (f"{THREAD_ID}.jsonl", None),
        ("", None),
    ],
)
def test_the_id_in_a_files_name(name: str, thread_id: ThreadId | None) -> None:
    assert thread_id_of_path(name) == thread_id


def test_an_item_whose_tag_is_no_text_is_kept_verbatim(path: Path) -> None:
    *_, last = read(path, meta() + wire("response_item", {"type": ["no", "tag"]})).history
    assert isinstance(last, ResponseItemLine)
    assert last.payload == Verbatim(raw={"type": ["no", "tag"]})
