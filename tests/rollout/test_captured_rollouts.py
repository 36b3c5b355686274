from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from codex_actors import Config, ScriptedModel, ThreadManager
from codex_actors.protocol.history import ROLLOUT_ITEM, ResponseItemLine, Resumed, SessionMeta, SessionMetaLine
from codex_actors.protocol.items import ITEM_KINDS, Message, Verbatim
from codex_actors.protocol.wire import wire_value
from codex_actors.rollout import reader
from codex_actors.rollout.chain import segments_of
from codex_actors.rollout.owed import Append
from codex_actors.rollout.payloads import item_in
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import model_history, open_calls, session_meta
from codex_actors.rollout.truncation import truncate_rollout_before_nth_user_message_from_start, user_message_positions
from codex_actors.rollout.writer import RolloutWriter

WAIT_S = 10.0
TOOLS = Path(__file__).parents[3] / "shared" / "codex" / "tools"
HAND_MADE = sorted((Path(__file__).parent / "data").rglob("*.jsonl"))
LATER_TYPES = {"world_state", "token_usage_record", "inter_agent_communication_metadata"}


def resumed(path: Path) -> Resumed:
    history = get_rollout_history(path)
    assert isinstance(history, Resumed)
    return history


def without_crc(value: dict[str, Any]) -> dict[str, Any]:
    """A line's crc is of the bytes in the file, and no part of what it says."""
    return {name: value[name] for name in value if name != "crc"}


def changed_lines(path: Path) -> list[int]:
    """The numbers of the lines that the models do not give back word for word, nulls and the order of keys included."""
    changed = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        for read in reader.parse(line):  # none where the line is broken
            value = json.loads(line)
            parts: list[tuple[Any, Any]] = [(read, value)]
            if isinstance(read, ResponseItemLine):
                parts.append((item_in(line), value["payload"]))
            if any(
                json.dumps(without_crc(wire_value(model))) != json.dumps(without_crc(wanted)) for model, wanted in parts
            ):
                changed.append(number)
    return changed


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`resume_check.py`, which says what a model must see."""
    if not (TOOLS / "resume_check.py").exists():
        pytest.skip(f"no resume_check.py in {TOOLS}")
    monkeypatch.syspath_prepend(str(TOOLS))
    return __import__("resume_check")


def test_each_captured_file_reads_without_a_loss(captured: Path) -> None:
    wire = [json.loads(line) for line in captured.read_text().splitlines()]
    history = resumed(captured)
    assert len(history.history) == len(wire)
    assert history.conversation_id == wire[0]["payload"]["id"]
    assert {item.type for item in history.history if isinstance(item, Verbatim)} <= LATER_TYPES


def test_each_captured_line_comes_back_word_for_word(captured: Path) -> None:
    assert changed_lines(captured) == []


@pytest.mark.parametrize("path", HAND_MADE, ids=lambda path: path.stem[-20:])
def test_each_hand_made_line_comes_back_word_for_word(path: Path) -> None:
    assert changed_lines(path) == []


def test_broken_field_of_an_item_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Message):
        id: str | None = Field(default=None, exclude=True)

    monkeypatch.setitem(ITEM_KINDS, "message", Forgetful)
    assert any(changed_lines(path) for path in HAND_MADE)


def test_broken_field_of_a_line_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(SessionMeta):
        cwd: str = Field(exclude=True)

    class Line(SessionMetaLine):
        payload: Forgetful

    monkeypatch.setitem(reader._LINES, "session_meta", Line)
    assert [changed_lines(path)[:1] for path in HAND_MADE] == [[1]] * len(HAND_MADE)


def test_each_captured_item_is_sent_as_it_was_read(captured: Path, tmp_path: Path, rule: Any) -> None:
    wanted = rule.expected_history(rule.chain(str(captured), list(map(str, captured.parent.glob("*.jsonl")))))
    day = tmp_path / "sessions" / "2026" / "11" / "23"
    day.mkdir(parents=True)
    for segment in segments_of(captured):
        shutil.copy(segment.path, day)
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), day / captured.name).get(timeout=WAIT_S).thread
        thread.run("one more").get(timeout=WAIT_S)
    sent = [json.dumps(wire_value(item)) for item in model.prompts[0].input]
    assert rule.subsequence([json.dumps(item) for item in wanted], sent) == []


def test_each_captured_line_fits_the_adapter(captured: Path) -> None:
    for line in captured.read_bytes().splitlines():
        item = ROLLOUT_ITEM.validate_json(line)
        assert json.loads(ROLLOUT_ITEM.dump_json(item, exclude_unset=True)) == json.loads(line)


def test_the_reader_agrees_with_the_adapter(captured: Path) -> None:
    lines = captured.read_bytes().splitlines()
    assert list(resumed(captured).history) == [ROLLOUT_ITEM.validate_json(line) for line in lines]


def test_each_captured_file_survives_a_fork(captured: Path, tmp_path: Path) -> None:
    items = resumed(captured).history
    copy_path = tmp_path / "copy.jsonl"
    assert RolloutWriter("flush").write([Append(copy_path, "2027-01-01T00:00:00.000Z", items, create=True)]) == [None]
    copied = resumed(copy_path).history
    assert len(copied) == len(items)
    assert model_history(copied) == model_history(items)
    assert session_meta(copied) == session_meta(items)


def test_each_captured_history_has_turns_and_closed_calls(captured: Path) -> None:
    items = resumed(captured).history
    positions = user_message_positions(items)
    assert positions
    assert truncate_rollout_before_nth_user_message_from_start(items, 0) == items[: positions[0]]
    assert isinstance(items[0], SessionMetaLine)
    assert open_calls(model_history(items)) == []
