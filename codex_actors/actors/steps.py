"""How a step of a turn becomes history, lines and events.

Source: `codex-rs/core/src/codex.rs`, `try_run_turn` and `handle_output_item_done`; `event_mapping.rs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codex_actors.actors.approvals import AskApproval, ask_approval
from codex_actors.actors.turn_state import Turn
from codex_actors.actors.turn_task import ToolSaid, WrongOutput
from codex_actors.compaction import SUMMARY_PREFIX, Summary
from codex_actors.context import build_initial_context
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ReasoningDelta, Retrying, TextDelta
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageDelta,
    AgentMessageItem,
    AgentReasoning,
    AgentReasoningDelta,
    AgentText,
    ContextCompacted,
    ExecCommandBegin,
    ExecCommandEnd,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    ReasoningItem,
    StreamErrorEvent,
    TokenCount,
    TokenUsage,
    Warning,
)
from codex_actors.protocol.history import Compacted
from codex_actors.protocol.items import CustomToolCall, FunctionCall, LocalShellCall, Message, Reasoning
from codex_actors.protocol.wire import made
from codex_actors.rollout.replay import summarized
from codex_actors.tools.toolbox import CallDone
from codex_actors.turn import CALLS, ContextFull

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def _speaks(actor: ThreadActor, turn: Turn) -> None:
    turn.first_token_s = actor.shared.clock.passed_s() - turn.started_s


def _text_delta(actor: ThreadActor, turn: Turn, step: TextDelta) -> None:
    if turn.first_token_s is None:
        _speaks(actor, turn)
    actor.emit(turn, made(AgentMessageDelta, delta=step.delta))


def _reasoning_delta(actor: ThreadActor, turn: Turn, step: ReasoningDelta) -> None:
    if turn.first_token_s is None:
        _speaks(actor, turn)
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
    turn.inputs = None
    if turn.first_token_s is None:
        _speaks(actor, turn)
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
    if turn.commands:
        cut_commands(actor, turn, step.call.call_id)
    actor.record.add_item(step.output)
    item = _call_item(step.call, output=step.text, success=step.success)
    actor.emit(turn, made(ItemCompleted, thread_id=actor.thread_id, turn_id=turn.id, item=item))


def _completed(actor: ThreadActor, turn: Turn, step: Completed) -> None:
    if step.usage is not None:
        turn.usage = step.usage if turn.usage is None else turn.usage + step.usage
    turn.inputs, turn.is_compacted, actor.record.is_full = None, False, False
    event = made(TokenCount, info=actor.record.count(step.usage, turn.settings.config.model_context_window))
    actor.record.add(event)
    actor.emit(turn, event)


def _context_full(actor: ThreadActor, turn: Turn, _step: ContextFull) -> None:
    """Source: `set_total_tokens_full`."""
    turn.item_id = None
    actor.record.is_full = True


def _summary(actor: ThreadActor, turn: Turn, step: Summary) -> None:
    record, (config, _, cwd) = actor.record, turn.settings
    if step.usage is not None:
        turn.usage = step.usage if turn.usage is None else turn.usage + step.usage
        record.count(step.usage, config.model_context_window)
    end = len(record.history) if turn.inputs is None else turn.inputs
    old, new_input = record.history[:end], record.history[end:]
    turn.before += tuple(old[turn.first :])
    steered = len(record.history) - max(turn.first, end)
    text = f"{SUMMARY_PREFIX}\n\n{step.text}"
    history = summarized(build_initial_context(config, cwd=cwd), old, text, record.summaries)
    if turn.inputs is not None:
        turn.inputs = len(history)
    history += new_input
    turn.first, turn.is_compacted = len(history) - steered, True
    number = len(record.summaries) + 1  # older ones may be unknown here; Codex asks only that there is a number
    compacted = Compacted(message=text, replacement_history=tuple(history), window_number=number, resume_metadata={})
    record.replace(history, compacted, event := ContextCompacted())
    usage = TokenUsage(total_tokens=record.context_tokens())
    count = TokenCount(info=record.estimate(usage, config.model_context_window))
    record.add(count)
    actor.emit(turn, event)
    actor.emit(turn, count)
    left_out = f" {step.left_out} of its oldest items did not fit into the request for it." if step.left_out else ""
    actor.emit(turn, Warning(message=f"The history was replaced by a summary, which may leave details out.{left_out}"))


def _wrong_output(actor: ThreadActor, turn: Turn, step: WrongOutput) -> None:
    turn.output_problem = step.problem
    actor.emit(turn, Warning(message=f"the last message does not fit the output schema: {step.problem}"))


def _tool_said(actor: ThreadActor, turn: Turn, step: ToolSaid) -> None:
    msg = step.msg
    if isinstance(msg, ExecCommandBegin):
        turn.commands = turn.commands or {}
        turn.commands[msg.call_id] = msg, actor.shared.clock.passed_s()
    elif isinstance(msg, ExecCommandEnd) and turn.commands:
        turn.commands.pop(msg.call_id, None)
    actor.emit(turn, msg)


def cut_commands(actor: ThreadActor, turn: Turn, call_id: str | None = None) -> None:
    """The commands that still run end with their call (None: all, with the turn): who watches is told."""
    commands = turn.commands or {}
    for name in [call_id] if call_id is not None else list(commands):
        if name not in commands:
            continue
        begin, since_s = commands.pop(name)
        passed_s = actor.shared.clock.passed_s() - since_s
        end = ExecCommandEnd(
            call_id=begin.call_id,
            turn_id=begin.turn_id,
            command=begin.command,
            cwd=begin.cwd,
            exit_code=-1,
            duration={"secs": int(passed_s), "nanos": int(passed_s % 1 * 1e9)},
        )
        actor.emit(turn, end)


COMMIT: dict[type, Callable[[ThreadActor, Turn, Any], None]] = {
    TextDelta: _text_delta,
    ReasoningDelta: _reasoning_delta,
    ItemAdded: _item_added,
    ItemDone: _item_done,
    Completed: _completed,
    CallDone: _call_done,
    Retrying: _retrying,
    ContextFull: _context_full,
    Summary: _summary,
    ToolSaid: _tool_said,
    AskApproval: ask_approval,
    WrongOutput: _wrong_output,
}
"""What records a step of the running turn and shows it, by the step's class. Runs in: the loop's OS thread."""
