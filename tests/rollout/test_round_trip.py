from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from codex_actors.protocol.events import (
    AgentMessage,
    AgentReasoning,
    ThreadRolledBack,
    TokenCount,
    TokenUsage,
    TokenUsageInfo,
    TurnAborted,
    UserMessage,
)
from codex_actors.protocol.history import (
    Compacted,
    InputAccepted,
    ResponseItemLine,
    Resumed,
    SessionMeta,
    TurnContextItem,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    ImageInput,
    InputImage,
    InputText,
    LocalShellCall,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    SummaryText,
    TextInput,
    Verbatim,
    WebSearchCall,
)
from codex_actors.rollout.owed import Append
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.writer import RolloutWriter

TEXT = st.text(max_size=30)
MAYBE = st.none() | TEXT
COUNT = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)


def tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3).map(tuple)


def unknown(*tags: str) -> st.SearchStrategy[Verbatim]:
    return st.builds(lambda tag, rest: Verbatim(raw={**rest, "type": tag}), st.sampled_from(tags), OBJECT)


CONTENT = st.one_of(
    st.builds(InputText, text=TEXT),
    st.builds(OutputText, text=TEXT),
    st.builds(InputImage, image_url=TEXT),
    unknown("input_audio"),
)
OUTPUT = TEXT | tuples(CONTENT)
USAGE = st.builds(TokenUsage, input_tokens=COUNT, cached_input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT)
ITEM = st.one_of(
    st.builds(Message, id=MAYBE, role=TEXT, content=tuples(CONTENT)),
    st.builds(
        Reasoning,
        summary=tuples(st.builds(SummaryText, text=TEXT)),
        content=st.none()
        | tuples(st.builds(ReasoningText, type=st.sampled_from(["reasoning_text", "text"]), text=TEXT)),
        encrypted_content=MAYBE,
    ),
    st.builds(FunctionCall, name=TEXT, arguments=TEXT, call_id=TEXT),
    st.builds(FunctionCallOutput, call_id=TEXT, output=OUTPUT),
    st.builds(CustomToolCall, status=MAYBE, call_id=TEXT, name=TEXT, input=TEXT),
    st.builds(CustomToolCallOutput, call_id=TEXT, output=OUTPUT),
    st.builds(LocalShellCall, call_id=MAYBE, status=TEXT, action=OBJECT),
    st.builds(WebSearchCall, status=MAYBE, action=st.none() | OBJECT),
)
PAYLOAD = st.one_of(
    ITEM,
    st.builds(UserMessage, message=TEXT, images=st.none() | tuples(TEXT)),
    st.builds(AgentMessage, message=TEXT),
    st.builds(AgentReasoning, text=TEXT),
    st.builds(ThreadRolledBack, num_turns=COUNT),
    st.builds(TurnAborted, turn_id=MAYBE, reason=TEXT),
    st.builds(
        TokenCount,
        info=st.none()
        | st.builds(
            TokenUsageInfo, total_token_usage=USAGE, last_token_usage=USAGE, model_context_window=st.none() | COUNT
        ),
    ),
    st.builds(Compacted, message=TEXT, replacement_history=st.none() | tuples(ITEM)),
    st.builds(
        TurnContextItem,
        cwd=TEXT,
        approval_policy=TEXT,
        sandbox_policy=OBJECT,
        model=TEXT,
        turn_id=MAYBE,
        developer_instructions=MAYBE,
    ),
    st.builds(
        InputAccepted,
        submission_id=TEXT,
        items=tuples(st.builds(TextInput, text=TEXT) | st.builds(ImageInput, image_url=TEXT)),
        final_output_json_schema=st.none() | OBJECT,
    ),
)
LINE = st.builds(ResponseItemLine, payload=ITEM | unknown("tool_search_call"), submission_id=MAYBE)
META = SessionMeta(
    id=ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39"), timestamp="t", cwd="/", originator="o", cli_version="0"
)


@settings(max_examples=60)
@given(st.lists(st.lists(PAYLOAD | LINE | unknown("world_state", "token_usage_record"), max_size=4), max_size=4))
def test_what_is_written_reads_back_equal(batches: list[list[Any]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rollout.jsonl")
        writer = RolloutWriter("memory")
        appends = [Append(path, "2026-01-08T10:11:12.123Z", tuple(items), create=False) for items in batches]
        first = Append(path, "2026-01-08T10:11:12.123Z", (META,), create=True)
        assert writer.write([first, *appends]) == [None] * (1 + len(batches))
        writer.close()
        history = get_rollout_history(path)
    assert isinstance(history, Resumed)
    meta, *read = history.history
    written = [item for items in batches for item in items]
    assert [as_written(line, item) for line, item in zip(read, written, strict=True)] == written
    assert meta.type == "session_meta"


def as_written(line: Any, item: Any) -> Any:
    """`line`, as far as `item` could say it: without the file's timestamp, and without its line where it had none."""
    if isinstance(item, Verbatim):
        timestamp = item.raw.get("timestamp")
        rest = {key: value for key, value in line.raw.items() if key != "timestamp"}
        return Verbatim(raw={**rest, "timestamp": timestamp} if "timestamp" in item.raw else rest)
    if isinstance(item, ResponseItemLine):
        return ResponseItemLine(payload=line.payload, submission_id=line.submission_id)
    return line.payload
