from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from codex_actors.protocol.events import AgentMessage
from codex_actors.protocol.history import (
    ROLLOUT_ITEM,
    Compacted,
    CompactedLine,
    EventMsgLine,
    Forked,
    InputAccepted,
    InputAcceptedLine,
    ModelPreset,
    New,
    RawLines,
    ResponseItemLine,
    Resumed,
    RolloutItem,
    SessionMeta,
    SessionMetaLine,
    SessionSource,
    SubAgentSource,
    TurnContextItem,
    TurnContextLine,
    as_rollout_item,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import Message, Verbatim

ID = ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39")
META = {"id": ID, "timestamp": "t", "cwd": "/", "originator": "o", "cli_version": "0.87.0"}
MESSAGE = {"type": "message", "role": "user", "content": []}


@pytest.mark.parametrize(
    ("kind", "type_", "payload"),
    [
        (SessionMetaLine, "session_meta", {**META, "source": {"subagent": "review"}, "git": {"branch": "main"}}),
        (ResponseItemLine, "response_item", MESSAGE),
        (ResponseItemLine, "response_item", {"type": "tool_search_call", "nothing": None}),
        (CompactedLine, "compacted", {"message": "s"}),
        (CompactedLine, "compacted", {"message": "s", "replacement_history": [MESSAGE]}),
        (
            TurnContextLine,
            "turn_context",
            {"cwd": "/", "approval_policy": "never", "sandbox_policy": {"type": "x"}, "model": "m", "effort": None},
        ),
        (EventMsgLine, "event_msg", {"type": "agent_message", "message": "hi"}),
        (EventMsgLine, "event_msg", {"type": "plan_update", "nothing": None}),
        (
            InputAcceptedLine,
            "codex_actors",
            {"type": "input_accepted", "submission_id": "7", "items": [{"type": "text", "text": "x"}]},
        ),
        (Verbatim, "world_state", {"full": True, "nothing": None}),
    ],
)
def test_each_line_goes_through_unharmed(kind: type, type_: str, payload: dict[str, Any]) -> None:
    wire = {"timestamp": "2026-01-08T10:11:12.123Z", "ordinal": 3, "type": type_, "payload": payload}
    item = ROLLOUT_ITEM.validate_json(json.dumps(wire))
    assert type(item) is kind
    assert json.loads(ROLLOUT_ITEM.dump_json(item, exclude_unset=True)) == wire


@pytest.mark.parametrize("missing", sorted(META))
def test_a_meta_needs_what_codex_needs(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        SessionMeta.model_validate({key: value for key, value in META.items() if key != missing})


def test_a_meta_without_source_is_from_vscode() -> None:
    assert SessionMeta.model_validate(META).source == "vscode"


def test_histories_hold_their_lines() -> None:
    lines = (EventMsgLine(payload=AgentMessage(message="hi")),)
    assert New().get_rollout_items() == ()
    assert Forked(lines).get_rollout_items() == Resumed(ID, lines, Path("x")).get_rollout_items() == lines


@pytest.mark.parametrize(
    "line",
    [
        SessionMetaLine(payload=SessionMeta.model_validate(META)),
        TurnContextLine(payload=TurnContextItem(cwd="/", approval_policy="never", sandbox_policy={}, model="m")),
        CompactedLine(payload=Compacted(message="s")),
        InputAcceptedLine(payload=InputAccepted(submission_id="1", items=())),
        ResponseItemLine(payload=Message(role="user")),
        EventMsgLine(payload=AgentMessage(message="hi")),
    ],
    ids=lambda line: line.type,
)
def test_a_payload_finds_its_line(line: RolloutItem) -> None:
    assert not isinstance(line, Verbatim)
    assert as_rollout_item(line.payload) == line
    assert as_rollout_item(line) is line


def test_an_unknown_value_is_a_line_of_its_own() -> None:
    unknown = Verbatim(raw={"type": "world_state"})
    assert as_rollout_item(unknown) is unknown


def test_session_sources_are_their_wire_words() -> None:
    assert [str(source) for source in SessionSource] == ["cli", "vscode", "exec", "mcp", "unknown"]


def test_a_sub_agent_names_its_parent() -> None:
    source = SubAgentSource.model_validate({"parent_thread_id": ID.upper(), "depth": 1})
    assert (source.parent_thread_id, source.depth, source.agent_role) == (ID, 1, None)


def test_a_preset_needs_little() -> None:
    preset = ModelPreset(id="m", model="m", display_name="M")
    assert (preset.description, preset.is_default) == ("", False)


def test_raw_lines_are_those_of_their_runs() -> None:
    lines = RawLines([b"{1}\n{2}\n", b"", b"{3}\n"])
    assert lines.runs == (b"{1}\n{2}\n", b"{3}\n")
    assert list(lines) == [b"{1}\n", b"{2}\n", b"{3}\n"]
    assert (len(lines), lines[-1], lines[:1]) == (3, b"{3}\n", (b"{1}\n",))
    assert lines == RawLines(lines)
    assert hash(lines) == hash(RawLines(lines))
    assert lines != RawLines()
