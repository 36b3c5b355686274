from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codex_actors.actors.steps import COMMIT
from codex_actors.actors.turn_state import Settings, Turn
from codex_actors.config import Config
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ReasoningDelta, Retrying, TextDelta
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageDelta,
    AgentMessageItem,
    AgentReasoning,
    AgentReasoningDelta,
    AgentText,
    EventMsg,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    StreamErrorEvent,
    TokenCount,
    TokenUsage,
    TokenUsageInfo,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    FunctionCall,
    LocalShellCall,
    Message,
    OutputText,
    Reasoning,
    ReasoningText,
    ResponseItem,
    SummaryText,
    WebSearchCall,
)
from codex_actors.runtime.clock import SimulatedClock
from codex_actors.tools.toolbox import done
from codex_actors.turn import ContextFull, Step

THREAD_ID = ThreadId("0193b5b8-0000-7000-8000-000000000001")
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
SAID = Message(role="assistant", content=(OutputText(text="hello"),))


class Desk:
    """What a step writes to: stands where the thread's actor stands, and keeps the order of lines and events."""

    thread_id = THREAD_ID

    def __init__(self) -> None:
        self.record = self
        self.turn = Turn("t1", None, None, Settings(Config(), "m", Path("/")), 0.0)
        self.shared = SimpleNamespace(clock=SimulatedClock(1))
        self.is_full = False
        self.done: list[Any] = []

    def add_item(self, item: ResponseItem, *events: EventMsg) -> None:
        self.done += [("line", item), *(("line", event) for event in events)]

    def add(self, event: EventMsg) -> None:
        self.done.append(("line", event))

    def count(self, usage: TokenUsage | None, window: int | None) -> TokenUsageInfo | None:
        return None if usage is None else TokenUsageInfo(total_token_usage=usage, last_token_usage=usage)

    def emit(self, turn: Turn, msg: EventMsg) -> None:
        self.done.append(("event", msg))

    def after(self, *steps: Step) -> list[Any]:
        for step in steps:
            COMMIT[type(step)](self, self.turn, step)  # type: ignore[arg-type]
        return self.done


def started(item: Any) -> tuple[str, ItemStarted]:
    return "event", ItemStarted(thread_id=THREAD_ID, turn_id="t1", item=item)


def completed(item: Any) -> tuple[str, ItemCompleted]:
    return "event", ItemCompleted(thread_id=THREAD_ID, turn_id="t1", item=item)


@pytest.mark.parametrize("added", [True, False])
def test_message_is_recorded_before_it_is_shown(added: bool) -> None:
    begin = [ItemAdded(Message(role="assistant"))] if added else []
    desk = Desk()
    assert desk.after(*begin, ItemDone(SAID)) == [
        started(AgentMessageItem(id="t1:1")),
        ("line", SAID),
        ("line", AgentMessage(message="hello")),
        completed(AgentMessageItem(id="t1:1", content=(AgentText(text="hello"),))),
        ("event", AgentMessage(message="hello")),
    ]
    assert desk.turn.text == "hello"


def test_reasoning_is_shown_whole_and_as_item() -> None:
    item = Reasoning(id="r1", summary=(SummaryText(text="s"),), content=(ReasoningText(text="raw"),))
    whole = ReasoningItem(id="r1", summary_text=("s",), raw_content=("raw",))
    assert Desk().after(ItemAdded(Reasoning(id="r1")), ItemDone(item)) == [
        started(ReasoningItem(id="r1")),
        ("line", item),
        ("line", AgentReasoning(text="s")),
        completed(whole),
        ("event", AgentReasoning(text="s")),
    ]


def test_deltas_are_shown_and_never_recorded() -> None:
    assert Desk().after(TextDelta("a"), ReasoningDelta("b")) == [
        ("event", AgentMessageDelta(delta="a")),
        ("event", AgentReasoningDelta(delta="b")),
    ]


def test_items_without_server_id_are_numbered() -> None:
    shown = [msg.item for _, msg in Desk().after(ItemDone(SAID), ItemDone(SAID)) if isinstance(msg, ItemCompleted)]
    assert [item.id for item in shown if isinstance(item, AgentMessageItem)] == ["t1:1", "t1:2"]


@pytest.mark.parametrize(
    ("call", "name", "arguments"),
    [
        (CALL, "look", "{}"),
        (CustomToolCall(call_id="c1", name="patch", input="x"), "patch", "x"),
        (LocalShellCall(call_id="c1", status="completed", action={}), "local_shell", ""),
    ],
)
def test_call_is_open_until_its_output(call: Any, name: str, arguments: str) -> None:
    desk, outcome = Desk(), done(call, "seen", success=True)
    desk.after(ItemDone(call))
    assert list(desk.turn.open_calls) == [call]
    assert desk.after(outcome) == [
        ("line", call),
        started(FunctionCallItem(id="c1", name=name, arguments=arguments)),
        ("line", outcome.output),
        completed(FunctionCallItem(id="c1", name=name, arguments=arguments, output="seen", success=True)),
    ]
    assert not desk.turn.open_calls


def test_second_output_of_a_call_is_dropped() -> None:
    desk, outcome = Desk(), done(CALL, "seen", success=True)
    once = list(desk.after(ItemDone(CALL), outcome))
    assert desk.after(outcome) == once


def test_other_items_are_only_recorded() -> None:
    search = WebSearchCall(status="completed")
    assert Desk().after(ItemDone(search)) == [("line", search)]


def test_usage_is_summed_over_the_turn() -> None:
    usage = TokenUsage(input_tokens=1, total_tokens=1)
    desk = Desk()
    event = TokenCount(info=TokenUsageInfo(total_token_usage=usage, last_token_usage=usage))
    assert desk.after(Completed(usage)) == [("line", event), ("event", event)]
    desk.after(Completed(usage), Completed(None))
    assert desk.turn.usage == usage + usage


def test_retry_forgets_the_unfinished_item() -> None:
    desk = Desk()
    assert desk.after(ItemAdded(Message(role="assistant")), Retrying("again"))[-1] == (
        "event",
        StreamErrorEvent(message="again"),
    )
    assert desk.after(ItemDone(SAID))[2] == started(AgentMessageItem(id="t1:2"))


def test_refused_request_forgets_the_unfinished_item() -> None:
    desk = Desk()
    desk.after(ItemAdded(Message(role="assistant")), ContextFull())
    assert started(AgentMessageItem(id="t1:2")) in desk.after(ItemDone(SAID))
