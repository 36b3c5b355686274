"""How a thread's turn begins, what its model is given, and how it ends: with exactly one end, and with every call closed.

Source: `codex-rs/core/src/codex.rs`, `spawn_task` and `on_task_finished`. Runs in: the loop's OS thread, all of it.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any

from codex_actors.actors.approvals import drop_approvals
from codex_actors.actors.pages import Lifecycle
from codex_actors.actors.record import Answer
from codex_actors.actors.steps import COMMIT, cut_commands
from codex_actors.actors.turn_state import Accepted, Settings, Turn
from codex_actors.actors.turn_task import DELTA_STEPS, Request, Road, TakeInput, TurnEnded, drive_turn
from codex_actors.actors.waiting import acknowledge
from codex_actors.compaction import compaction_prompt, has_what_to_compact
from codex_actors.context import context_changes
from codex_actors.errors import CodexError
from codex_actors.model.provider import Prompt
from codex_actors.protocol.events import (
    Error,
    TaskComplete,
    TaskStarted,
    TokenUsage,
    TurnAborted,
    Warning,
)
from codex_actors.protocol.history import TurnContextItem
from codex_actors.protocol.status import AgentStatus
from codex_actors.protocol.wire import made
from codex_actors.tools.tool import ToolContext
from codex_actors.tools.toolbox import CallDone, Toolbox, done
from codex_actors.turn import TurnResult

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor

INTERRUPTED = "aborted by user"
"""The output of a call that an interrupt cut. Source: `tools/parallel.rs`."""


NOTHING = Request(None)
"""There is nothing to ask."""


def begin_turn(actor: ThreadActor, turn_id: str, context: contextvars.Context | None, inputs: list[Accepted]) -> None:
    """Record what is to be answered, and start the turn's task in `context` (None: the manager's)."""
    turn = _begin(actor, turn_id, context)
    turn.schema = inputs[-1].schema
    actor.is_unreported = True
    history = actor.record.history
    lines: list[Any] = []
    birth, actor.birth = actor.birth, None
    if birth is not None or actor.has_new_context:
        actor.has_new_context = False
        changes = context_changes(actor.config, history, cwd=actor.cwd)
        lines += [*(birth.owed if birth is not None else ()), *changes]
        history += changes
    if actor.waiting is not None and actor.waiting.notices:
        notices = actor.waiting.take_notices()
        history += notices
        lines += notices
    turn.inputs = len(history)
    for accepted in inputs:
        lines += _history_lines(actor, turn, accepted)
    shared = actor.shared.turn_context(actor.config, actor.model, turn.schema, actor.cwd)
    lines.append(made(TurnContextItem, **{**shared.__dict__, "turn_id": turn_id}))
    turn.first = len(history)
    actor.record.add(*lines)
    for accepted in inputs:
        _taken(actor, turn, accepted)
    _launch_later(actor, turn)


def begin_compaction(actor: ThreadActor, turn_id: str, context: contextvars.Context | None) -> None:
    """Replace the history by a summary, in a turn of its own; a running turn makes room for it.

    Source: `codex-rs/core/src/tasks/compact.rs`.
    """
    take_told(actor, begins_next=False)
    if actor.turn is not None:
        close_calls(actor, actor.turn, INTERRUPTED)
        end_turn(actor, aborted="replaced", begins_next=False)
    turn = _begin(actor, turn_id, context)
    turn.is_compaction = True
    turn.first = turn.inputs = len(actor.record.history)
    actor.record_owed()
    actor.record_notices()
    _launch_later(actor, turn)


def take_told(actor: ThreadActor, *, begins_next: bool = True) -> None:
    """What the running turn has told and nobody has handled yet has happened; its deltas are dropped, unless it has ended by
    itself: a turn that completes loses none."""
    steps = actor.actor_inbox.take_steps()
    is_over = any(isinstance(step, TurnEnded) for _, step in steps)
    for told in steps:
        turn_id, step = told
        if isinstance(step, TurnEnded) and actor.turn is not None and actor.turn.id == turn_id:
            end_turn(actor, error=step.error, cause=step.cause, finished=True, begins_next=begins_next)
        elif is_over or not isinstance(step, (*DELTA_STEPS, TakeInput)):
            actor.on_step(told)


def _begin(actor: ThreadActor, turn_id: str, context: contextvars.Context | None) -> Turn:
    settings = Settings(actor.config, actor.model, actor.cwd)
    turn = actor.turn = Turn(turn_id, context, None, settings, actor.shared.clock.passed_s())
    actor.phase = "running"
    if actor.is_agent:
        actor.control.tree.works(actor)
    actor.shared.watchdog.watch()
    limit_s = actor.shared.config.turn_timeout_s
    turn.expire = partial(_expire_turn, actor, turn, limit_s)
    actor.pump.deadlines(limit_s).set(turn.expire)
    started = made(TaskStarted, turn_id=turn_id, model_context_window=actor.config.model_context_window)
    actor.record.add_lifecycle(started)
    actor.emit(turn, started)
    return turn


def _launch_later(actor: ThreadActor, turn: Turn) -> None:
    # Outside the handler: under an eager task factory the task begins to run where it is made.
    actor.pump.after(lambda: _launch(actor, turn))


def _history_lines(actor: ThreadActor, turn: Turn, accepted: Accepted) -> list[Any]:
    item = accepted.message()
    actor.record.history.append(item)
    turn.submission_ids.append(accepted.submission_id)
    if accepted.result is not None:
        turn.results.append(accepted.result)
    accepted.told = accepted.event()
    return [accepted.item_line(item), accepted.told]


def _taken(actor: ThreadActor, turn: Turn, accepted: Accepted) -> None:
    acknowledge(actor.record, accepted)
    if accepted.told is not None:
        actor.emit(turn, accepted.told)


def take_waiting(actor: ThreadActor, turn: Turn) -> None:
    """Take all that waits into the turn: its next model request sees it."""
    if actor.waiting is None:
        return
    actor.record_notices()
    inputs = actor.waiting.take_inputs()
    if inputs and turn.inputs is None:
        turn.inputs = len(actor.record.history)
    for accepted in inputs:
        actor.record.add(*_history_lines(actor, turn, accepted))
        _taken(actor, turn, accepted)


def _launch(actor: ThreadActor, turn: Turn) -> None:
    """Whatever a host's tools and task factory do here is the turn's failure."""
    if actor.turn is not turn:
        return
    coroutine = None
    try:
        toolbox, (config, _, cwd) = _tools(actor), turn.settings
        if config.tools:
            control = actor.control.of(actor.thread_id, actor.depth)
            context = ToolContext(actor.thread_id, turn.id, "", control, config, cwd, Road(actor, turn.id))
        else:
            context = ToolContext(actor.thread_id, turn.id, "", actor.control, config, cwd)
        request = request_of(actor, turn)
        if request == NOTHING:
            actor.emit(turn, Warning(message="there is nothing to compact yet"))
            end_turn(actor, finished=True)
            return
        coroutine = drive_turn(actor.shared, actor, turn.id, request, toolbox, context)
        # An empty context is false, and still the client's.
        context_of_turn = actor.pump.context.copy() if turn.context is None else turn.context
        turn.context = None
        turn.task = actor.pump.loop.create_task(coroutine, context=context_of_turn)
    except Exception as error:
        if coroutine is not None:
            coroutine.close()
        end_turn(actor, error=f"the turn task could not be started: {error}", finished=True)
        return
    actor.shared.turns.add(turn.task)
    turn.task.add_done_callback(partial(_left, actor, turn))


def _left(actor: ThreadActor, turn: Turn, task: asyncio.Task[None]) -> None:
    actor.shared.turns.discard(task)
    if task.cancelled():  # from outside, before its first step: it could not tell of its end
        error = f"the turn of thread {actor.thread_id} was cancelled from outside the runtime"
        actor.actor_inbox.put_step(actor, (turn.id, TurnEnded(error)))


def _expire_turn(actor: ThreadActor, turn: Turn, limit_s: float) -> None:
    if actor.turn is turn:
        end_turn(actor, error=f"the turn did not finish within {limit_s:g} s")


def _tools(actor: ThreadActor) -> Toolbox:
    if actor.toolbox is None:
        actor.toolbox = actor.shared.toolbox(actor.config.tools)
    return actor.toolbox


def prompt_of(actor: ThreadActor, turn: Turn) -> Prompt:
    """The whole history, as the next request of the turn takes it."""
    config, model, _ = turn.settings
    return Prompt(
        thread_id=actor.thread_id,
        model=model,
        instructions=config.base_instructions,
        input=tuple(actor.record.history),
        tools=_tools(actor).specs,
        parallel_tool_calls=True,
        output_schema=turn.schema,
        reasoning_effort=config.reasoning_effort,
        reasoning_summary=config.reasoning_summary,
        verbosity=config.verbosity,
        subagent=None if actor.parent_id is None else "collab_spawn",
    )


def request_of(actor: ThreadActor, turn: Turn) -> Request:
    """What the turn asks next: first for a summary, where the history has become too long."""
    prompt = prompt_of(actor, turn)
    if not turn.is_compaction and (turn.is_compacted or not _is_too_long(actor, turn)):
        return Request(prompt)
    # What the model has not answered to yet is not summed up.
    old = actor.record.history if turn.inputs is None else actor.record.history[: turn.inputs]
    compaction = None
    if has_what_to_compact(old):
        compaction = compaction_prompt(prompt, old, turn.settings.config.compact_prompt)
    return Request(None if turn.is_compaction else prompt, compaction)


def _is_too_long(actor: ThreadActor, turn: Turn) -> bool:
    config, record = turn.settings.config, actor.record
    limit = config.auto_compact_token_limit
    if limit is None and config.model_context_window is not None:
        limit = config.model_context_window * 9 // 10
    return record.is_full or (limit is not None and record.context_tokens() >= limit)


def end_turn(
    actor: ThreadActor,
    *,
    error: str | None = None,
    cause: CodexError | None = None,
    aborted: str | None = None,
    finished: bool = False,
    begins_next: bool = True,
) -> None:
    """Give the turn its one end, and what is left its own turn. A task that has not `finished` is cancelled."""
    turn = actor.turn
    assert turn is not None
    close_calls(actor, turn, INTERRUPTED if aborted else "aborted")
    if turn.commands:
        cut_commands(actor, turn)
    if turn.answers:
        drop_approvals(actor, turn)
    actor.turn = None
    actor.rest()
    actor.shared.watchdog.unwatch()
    passed_s = actor.shared.clock.passed_s() - turn.started_s
    if aborted is not None:
        event: Lifecycle = made(TurnAborted, turn_id=turn.id, reason=aborted)
        status = AgentStatus.INTERRUPTED if aborted == "interrupted" else AgentStatus.errored(aborted)
    else:
        if error is not None:
            info = None if cause is None else getattr(cause, "codex_error_info", None)
            actor.emit(turn, Error(message=error, codex_error_info=info))
        event = made(
            TaskComplete,
            turn_id=turn.id,
            last_agent_message=turn.text,
            error=error,
            duration_ms=int(passed_s * 1000),
            time_to_first_token_ms=None if turn.first_token_s is None else int(turn.first_token_s * 1000),
        )
        status = AgentStatus.completed(turn.text) if error is None else AgentStatus.errored(error)
    actor.record.add_lifecycle(event)
    actor.emit(turn, event)
    actor.record_notices()
    if aborted is None and not turn.is_compaction:
        actor.report(status)
    if turn.results:
        _tell_results(actor, turn, status, error, aborted, cause, passed_s)
    if turn.expire is not None:
        actor.pump.deadlines(actor.shared.config.turn_timeout_s).discard(turn.expire)
        turn.expire = None  # it holds the turn: a cycle
    if turn.task is not None and not finished:
        turn.task.cancel()
    waiting = actor.waiting if begins_next else None
    if waiting is not None and not all(accepted.is_found for accepted in waiting.inputs):
        inputs = waiting.take_inputs()
        begin_turn(actor, inputs[0].submission_id, inputs[0].context, inputs)
    elif actor.is_released and begins_next:
        actor.shut_down()


def _tell_results(
    actor: ThreadActor,
    turn: Turn,
    status: AgentStatus,
    error: str | None,
    aborted: str | None,
    cause: CodexError | None,
    duration_s: float,
) -> None:
    result = TurnResult(
        turn_id=turn.id,
        text=turn.text,
        items=(*turn.before, *actor.record.history[turn.first :]),
        usage=turn.usage or TokenUsage(),
        status=status,
        error=error,
        aborted=aborted,
        cause=cause,
        duration_s=duration_s,
        time_to_first_token_s=turn.first_token_s,
        output_problem=turn.output_problem,
    )
    for reply in turn.results:
        actor.record.show(Answer(reply, result))


def close_calls(actor: ThreadActor, turn: Turn, text: str) -> None:
    """No way out of a turn leaves a call without its output."""
    for call in list(turn.open_calls):
        COMMIT[CallDone](actor, turn, done(call, text, success=False))
