"""How a step of a turn becomes history, lines and events.

Source: `codex-rs/core/src/codex.rs`, `try_run_turn` and `handle_output_item_done`; `event_mapping.rs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codex_actors.actors.turn_state import Turn
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ReasoningDelta, Retrying, TextDelta
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageDelta,
    AgentMessageItem,
    AgentReasoning,
    AgentReasoningDelta,
    AgentText,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    StreamErrorEvent,
    TokenCount,
)
from codex_actors.protocol.items import CustomToolCall, FunctionCall, LocalShellCall, Message, Reasoning
from codex_actors.protocol.wire import made
from codex_actors.tools.toolbox import CallDone
from codex_actors.turn import CALLS

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def _text_delta(actor: ThreadActor, turn: Turn, step: TextDelta) -> None:
    actor.emit(turn, made(AgentMessageDelta, delta=step.delta))


def _reasoning_delta(actor: ThreadActor, turn: Turn, step: ReasoningDelta) -> None:
    actor.emit(turn, made(AgentReasoningDelta, delta=step.delta))


def _retrying(actor: ThreadActor, turn: Turn, step: Retrying) -> None:
    turn.item_id = None
    actor.emit(turn, StreamErrorEvent(message=step.message))


def _item_added(actor: ThreadActor, turn: Turn, step: ItemAdded | ItemDone) -> None:
    item = step.item
    kind: Any = (
        AgentMessageItem if isinstance(item, Message) else ReasoningItem if isinstance(item, Reasoning) else None
    )
    if kind is not None:
        turn.item_id = turn.name_item(getattr(item, "id", None))
        started = made(ItemStarted, thread_id=actor.thread_id, turn_id=turn.id, item=made(kind, id=turn.item_id))
        actor.emit(turn, started)


def _item_done(actor: ThreadActor, turn: Turn, step: ItemDone) -> None:
    """Codex's order: the item and its old-style event are kept together, then `item_completed` is shown before it."""
    item = step.item
    if isinstance(item, (Message, Reasoning)):
        if turn.item_id is None:
            _item_added(actor, turn, step)
        item_id, turn.item_id = turn.item_id or "", None
        whole: Any
        legacy: Any
        if isinstance(item, Message):
            turn.text = item.text
            legacy = made(AgentMessage, message=turn.text)
            whole = made(AgentMessageItem, id=item_id, content=(made(AgentText, text=turn.text),))
        else:
            legacy = made(AgentReasoning, text=item.text)
            raw = tuple(part.text for part in item.content or ())
            whole = ReasoningItem(id=item_id, summary_text=tuple(part.text for part in item.summary), raw_content=raw)
        actor.record.add_item(item, legacy)
        actor.emit(turn, made(ItemCompleted, thread_id=actor.thread_id, turn_id=turn.id, item=whole))
        actor.emit(turn, legacy)
        return
    actor.record.add_item(item)
    if isinstance(item, CALLS) and item.call_id is not None:
        turn.open_calls.append(item)
        actor.emit(turn, ItemStarted(thread_id=actor.thread_id, turn_id=turn.id, item=_call_item(item)))


def _call_item(call: FunctionCall | CustomToolCall | LocalShellCall, **outcome: Any) -> FunctionCallItem:
    if isinstance(call, LocalShellCall):
        return made(FunctionCallItem, id=call.call_id or "", name="local_shell", arguments="", **outcome)
    arguments = call.arguments if isinstance(call, FunctionCall) else call.input
    return made(FunctionCallItem, id=call.call_id, name=call.name, arguments=arguments, **outcome)


def _call_done(actor: ThreadActor, turn: Turn, step: CallDone) -> None:
    if step.call not in turn.open_calls:
        return
    turn.open_calls.remove(step.call)
    actor.record.add_item(step.output)
    item = _call_item(step.call, output=step.text, success=step.success)
    actor.emit(turn, made(ItemCompleted, thread_id=actor.thread_id, turn_id=turn.id, item=item))


def _completed(actor: ThreadActor, turn: Turn, step: Completed) -> None:
    if step.usage is not None:
        turn.usage = step.usage if turn.usage is None else turn.usage + step.usage
    event = made(TokenCount, info=actor.record.count(step.usage))
    actor.record.add(event)
    actor.emit(turn, event)


COMMIT: dict[type, Callable[[ThreadActor, Turn, Any], None]] = {
    TextDelta: _text_delta,
    ReasoningDelta: _reasoning_delta,
    ItemAdded: _item_added,
    ItemDone: _item_done,
    Completed: _completed,
    CallDone: _call_done,
    Retrying: _retrying,
}
"""What records a step of the running turn and shows it, by the step's class. Runs in: the loop's OS thread."""
