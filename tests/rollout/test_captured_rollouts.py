from __future__ import annotations

import json
from pathlib import Path

from codex_actors.protocol.history import ROLLOUT_ITEM, Resumed, SessionMetaLine
from codex_actors.protocol.items import Verbatim
from codex_actors.rollout.owed import Append
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import model_history, open_calls, session_meta
from codex_actors.rollout.truncation import truncate_rollout_before_nth_user_message_from_start, user_message_positions
from codex_actors.rollout.writer import RolloutWriter

LATER_TYPES = {"world_state", "token_usage_record", "inter_agent_communication_metadata"}


def resumed(path: Path) -> Resumed:
    history = get_rollout_history(path)
    assert isinstance(history, Resumed)
    return history


def test_each_captured_file_reads_without_a_loss(captured: Path) -> None:
    wire = [json.loads(line) for line in captured.read_text().splitlines()]
    history = resumed(captured)
    assert len(history.history) == len(wire)
    assert history.conversation_id == wire[0]["payload"]["id"]
    assert {item.type for item in history.history if isinstance(item, Verbatim)} <= LATER_TYPES


def test_each_captured_line_comes_back_equal(captured: Path) -> None:
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
