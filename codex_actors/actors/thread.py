"""`ThreadActor`: one thread. The only writer of its history, its status and its rollout.

Its life is one state machine: `starting → idle ⇄ running → stopping → ended`. A turn never runs in here: a turn task runs
it and tells each step; a step of a turn that has ended is dropped.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from codex_actors.actors import messages
from codex_actors.actors.birth import Birth, configure, drop_accepted
from codex_actors.actors.control import AgentControl
from codex_actors.actors.record import Answer, Effect, ThreadRecord
from codex_actors.actors.shared import Shared
from codex_actors.actors.steps import commit
from codex_actors.actors.turn_state import Accepted, Turn
from codex_actors.actors.turn_task import DELTA_STEPS, TakeInput, TurnEnded, drive_turn
from codex_actors.actors.watchers import Watchers
from codex_actors.config import Config
from codex_actors.context import context_changes
from codex_actors.errors import InternalAgentDied, ReplyTimeout, RolloutError
from codex_actors.model.provider import Prompt
from codex_actors.protocol.events import (
    Error,
    Event,
    EventMsg,
    SessionConfigured,
    ShutdownComplete,
    TaskComplete,
    TaskStarted,
    ThreadRolledBack,
    TokenUsage,
    TurnAborted,
    Warning,
)
from codex_actors.protocol.history import Forked
from codex_actors.protocol.ids import INITIAL_SUBMIT_ID, ThreadId
from codex_actors.protocol.ops import Interrupt, Shutdown, Submission, ThreadRollback, UserInput
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.protocol.wire import made
from codex_actors.rollout.truncation import drop_last_n_user_turns
from codex_actors.runtime.actor import LATER, LoopActor
from codex_actors.runtime.status_watch import StatusCell
from codex_actors.runtime.streams import EventStream
from codex_actors.tools.tool import ToolContext
from codex_actors.tools.toolbox import Toolbox, done
from codex_actors.turn import TurnResult

PENDING_BOUND = 64
"""Inputs that wait for a running turn; further ones wait to be accepted. Source: `codex.rs`, `SUBMISSION_CHANNEL_CAPACITY`."""

INTERRUPTED = "aborted by user"
"""The output of a call that an interrupt cut. Source: `tools/parallel.rs`."""

Phase = Literal["starting", "idle", "running", "stopping", "ended"]


class ThreadActor(LoopActor):
    """One thread. Made by the supervisor, which holds it through its `CodexThread`."""

    is_registered = False
    config: Config
    cwd: Path
    model: str
    session_configured: SessionConfigured
    """Set when it is removed from the list: it may need a new handle before it has ended."""

    def __init__(
        self,
        shared: Shared,
        thread_id: ThreadId,
        control: AgentControl,
        model_of: Callable[[Config], str],
        born: Callable[[ThreadActor], None],
    ) -> None:
        super().__init__(pump=shared.pump)
        self.shared = shared
        self.thread_id = thread_id
        self.control = control
        self.phase: Phase = "starting"
        self.turn: Turn | None = None
        self.watchers = Watchers(shared.pump)
        self.record = ThreadRecord(shared, self.watchers.publish, self._on_unwritten)
        self._model_of = model_of
        self._born: Callable[[ThreadActor], None] | None = born
        self._birth: Birth | None = None
        self._pending: deque[Accepted] | None = None
        self._toolbox: Toolbox | None = None
        self._released = False
        self._term = 0

    def _start_actor_loop(self) -> None:
        super()._start_actor_loop()
        born, self._born = self._born, None
        if born is not None:
            born(self)

    @property
    def cell(self) -> StatusCell:
        """The status, readable from any OS thread."""
        return self.watchers.cell

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and everybody who watched was told."""
        return self.watchers.cell.ended is not None

    def own_stream(self) -> EventStream:
        """The stream that `next_event()` reads."""
        return self.watchers.own_stream().readable()

    def attach(self, stream: EventStream) -> None:
        """Add an event stream."""
        self.watchers.attach(stream)

    def on_receive(self, message: Any) -> Any:
        """Handle one message. A foreign one is a `TypeError`: told, it ends this thread and no other."""
        match message:
            case messages.SubmitOp():
                return self._submit(message.submission)
            case messages.RunInput():
                accepted = Accepted.of(message.submission, self.sender_context)
                accepted.result = self.reply_to
                self._take_in(accepted)
                return LATER
            case messages.Configure():
                return self._configure(message)
            case messages.CancelRun():
                self._cancel_run(message.submission_id)
            case messages.GiveHistory():
                return self.record.rollout_items()
            case messages.Subscribe():
                self.watchers.subscribe(message.ref)
            case messages.Unsubscribe():
                self.watchers.unsubscribe(message.ref)
            case messages.WarnOf():
                self.watchers.publish(Event(self._event_id(), Warning(message=message.message)))
            case _:
                raise TypeError(f"{type(message).__name__} is no message to a thread")
        return None

    # --- birth -----------------------------------------------------------------------------------------------------

    def _configure(self, message: messages.Configure) -> Any:
        self.config = message.config
        self.cwd = self.config.cwd or self.shared.cwd()
        self.model = self._model_of(self.config)
        birth = configure(self.shared, self.thread_id, message, self.model, str(self.cwd))
        record = self.record
        if birth.lines:
            lines = drop_accepted(birth.lines) if isinstance(message.initial_history, Forked) else birth.lines
            record.load(lines, birth.history, birth.usage)
        record.path = birth.path
        if birth.meta is not None:
            record.begin(birth.meta)
        self._pending = deque(Accepted.found(line) for line in birth.pending) or None
        self._birth = birth
        self.phase = "idle"
        event = Event(INITIAL_SUBMIT_ID, birth.configured)
        if birth.warning is not None:
            self.pump.after(
                lambda: self.watchers.publish(Event(INITIAL_SUBMIT_ID, Warning(message=birth.warning or "")))
            )
        if not isinstance(message.initial_history, Forked) or birth.path is None:
            return event
        # A fork's file is whole before anybody hears of the fork.
        record.add(*birth.owed, is_awaited=True)
        birth.owed = ()
        if self.reply_to is not None:
            record.show(Answer(self.reply_to, event))
        return LATER

    # --- ops -------------------------------------------------------------------------------------------------------

    def _submit(self, submission: Submission) -> Any:
        op, reply = submission.op, self.reply_to
        if isinstance(op, UserInput):
            accepted = Accepted.of(submission, self.sender_context)
            accepted.ack = reply
            self._take_in(accepted)
            return LATER
        match op:
            case Interrupt():
                self._interrupt()
            case ThreadRollback():
                self._roll_back(submission.id, op.num_turns)
            case Shutdown():
                self._interrupt()
        if reply is not None:
            self.record.show(Answer(reply, submission.id))
        if isinstance(op, Shutdown):
            self.shut_down()
        return LATER

    def _take_in(self, accepted: Accepted) -> None:
        if self.turn is None:
            # What was accepted before the thread was loaded stands in front of it.
            self._begin_turn(accepted.submission_id, accepted.context, [*(self._pending or ()), accepted])
            return
        if self._pending is None:
            self._pending = deque()
        self._pending.append(accepted)
        if len(self._pending) <= PENDING_BOUND:
            self._promise(accepted)
        else:
            timeout_s = self.shared.config.ask_timeout_s
            self.pump.loop.call_later(timeout_s, self._refuse_late, accepted, timeout_s)

    def _promise(self, accepted: Accepted) -> None:
        """Accept an input that a later model request will take in: durable before its sender hears of it."""
        accepted.is_recorded = True
        self.record.add(accepted.line())
        self._acknowledge(accepted)

    def _acknowledge(self, accepted: Accepted) -> None:
        ack, accepted.ack = accepted.ack, None
        if ack is not None:
            self.record.show(Answer(ack, accepted.submission_id))

    def _refuse_late(self, accepted: Accepted, timeout_s: float) -> None:
        """An input that could not be accepted within its sender's deadline is refused, so that the wait is bounded."""
        if accepted.is_recorded or self._pending is None or accepted not in self._pending:
            return
        self._pending.remove(accepted)
        for reply in (accepted.ack, accepted.result):
            if reply is not None:
                reply.fail(ReplyTimeout(timeout_s))

    def _cancel_run(self, submission_id: str) -> None:
        waiting = any(accepted.submission_id == submission_id for accepted in self._pending or ())
        if self.turn is not None and (waiting or submission_id in self.turn.submission_ids):
            self._interrupt()

    def _interrupt(self) -> None:
        """Abort what was sent before. What the task has already told has happened; its deltas are dropped."""
        for step in self.actor_inbox.take_steps():
            if not isinstance(step[1], DELTA_STEPS):
                self.on_step(step)
        if self.turn is None:
            return
        self._take_pending(self.turn)
        self._end_turn(aborted="interrupted")

    def _roll_back(self, submission_id: str, num_turns: int) -> None:
        problem = None
        if num_turns == 0:
            problem = "num_turns must be >= 1"
        elif self.turn is not None:
            problem = "Cannot rollback while a turn is in progress."
        if problem is not None:
            self.record.show(Event(submission_id, Error(message=problem, codex_error_info="thread_rollback_failed")))
            return
        event = ThreadRolledBack(num_turns=num_turns)
        self.record.history = drop_last_n_user_turns(self.record.history, num_turns)
        self.record.add(event)
        self.record.show(Event(submission_id, event))

    # --- a turn ----------------------------------------------------------------------------------------------------

    def _begin_turn(self, turn_id: str, context: contextvars.Context | None, inputs: list[Accepted]) -> None:
        self._pending = None
        turn = self.turn = Turn(turn_id, context, inputs[-1].schema, 0)
        self.phase = "running"
        self.shared.watchdog.watch()
        self.emit(turn, made(TaskStarted, turn_id=turn_id))
        history = self.record.history
        lines: list[Any] = []
        birth, self._birth = self._birth, None
        if birth is not None:
            changes = context_changes(self.config, history, cwd=self.cwd)
            history += changes
            lines += [*birth.owed, *changes]
        for accepted in inputs:
            lines += self._history_lines(turn, accepted)
        lines.append(self.shared.turn_context(self.config, self.model, turn.schema, self.cwd))
        turn.first = len(history)
        self.record.add(*lines)
        for accepted in inputs:
            self._taken(turn, accepted)
        # Outside the handler: under an eager task factory the task begins to run where it is made.
        self.pump.after(lambda: self._launch(turn))

    def _history_lines(self, turn: Turn, accepted: Accepted) -> list[Any]:
        item = accepted.message()
        self.record.history.append(item)
        turn.submission_ids.append(accepted.submission_id)
        if accepted.result is not None:
            turn.results.append(accepted.result)
        accepted.told = accepted.event()
        return [accepted.item_line(item), accepted.told]

    def _taken(self, turn: Turn, accepted: Accepted) -> None:
        self._acknowledge(accepted)
        if accepted.told is not None:
            self.emit(turn, accepted.told)

    def _take_pending(self, turn: Turn) -> None:
        """Take all that waits into the turn: its next model request sees it."""
        inputs, self._pending = list(self._pending or ()), None
        for accepted in inputs:
            self.record.add(*self._history_lines(turn, accepted))
            self._taken(turn, accepted)

    def _launch(self, turn: Turn) -> None:
        if self.turn is not turn:
            return
        toolbox = self._tools()
        context = ToolContext(self.thread_id, turn.id, "", self.control)
        coroutine = drive_turn(self.shared, self, turn.id, self._prompt(turn), toolbox, context)
        # An empty context is false, and still the client's.
        context_of_turn = self.pump.context.copy() if turn.context is None else turn.context
        turn.context = None
        try:
            turn.task = self.pump.loop.create_task(coroutine, context=context_of_turn)
        except Exception as error:  # a host's task factory refused it
            coroutine.close()
            self._end_turn(error=f"the turn task could not be started: {error}", finished=True)
            return
        self.shared.turns.add(turn.task)
        turn.task.add_done_callback(self.shared.turns.discard)
        limit_s = self.shared.config.turn_timeout_s
        turn.expire = partial(self._expire_turn, turn, limit_s)
        self.pump.deadlines(limit_s).set(turn.expire)

    def _expire_turn(self, turn: Turn, limit_s: float) -> None:
        if self.turn is turn:
            self._end_turn(error=f"the turn did not finish within {limit_s:g} s")

    def _tools(self) -> Toolbox:
        if self._toolbox is None:
            self._toolbox = self.shared.toolbox(self.config.tools)
        return self._toolbox

    def _prompt(self, turn: Turn) -> Prompt:
        return Prompt(
            thread_id=self.thread_id,
            model=self.model,
            instructions=self.config.base_instructions,
            input=tuple(self.record.history),
            tools=self._tools().specs,
            parallel_tool_calls=True,
            output_schema=turn.schema,
        )

    def on_step(self, told: tuple[str, Any]) -> None:
        """Commit a step of the running turn; a stale one is dropped. Runs in: the loop's OS thread."""
        turn_id, step = told
        turn = self.turn
        if turn is None or turn.id != turn_id:
            return
        if isinstance(step, TurnEnded):
            self._end_turn(error=step.error, finished=True)
        elif isinstance(step, TakeInput):
            self._take_pending(turn)
            if not step.prompt.done():
                step.prompt.set_result(self._prompt(turn))
        else:
            commit(self, turn, step)

    def emit(self, turn: Turn, msg: EventMsg) -> None:
        """Show an event of the turn, behind what was recorded before it."""
        self.record.show(Event(turn.id, msg))

    def _end_turn(self, *, error: str | None = None, aborted: str | None = None, finished: bool = False) -> None:
        """Give the turn its one end, and what is left its own turn. A task that has not `finished` is cancelled."""
        turn = self.turn
        assert turn is not None
        self._close_calls(turn, INTERRUPTED if aborted else "aborted")
        self.turn = None
        self.phase = "idle"
        self.shared.watchdog.unwatch()
        if aborted is not None:
            event: EventMsg = made(TurnAborted, turn_id=turn.id, reason=aborted)
            status = AgentStatus.INTERRUPTED
            self.record.add(event)
        else:
            if error is not None:
                self.emit(turn, Error(message=error))
            event = made(TaskComplete, turn_id=turn.id, last_agent_message=turn.text, error=error)
            status = AgentStatus.completed(turn.text) if error is None else AgentStatus.errored(error)
        self.emit(turn, event)
        if turn.results:
            items = tuple(self.record.history[turn.first :])
            result = TurnResult(turn.id, turn.text, items, turn.usage or TokenUsage(), status, error)
            for reply in turn.results:
                self.record.show(Answer(reply, result))
        if turn.expire is not None:
            self.pump.deadlines(self.shared.config.turn_timeout_s).discard(turn.expire)
        if turn.task is not None and not finished:
            turn.task.cancel()
        if self._pending:
            first = self._pending[0]
            self._begin_turn(first.submission_id, first.context, list(self._pending))
        elif self._released:
            self.shut_down()

    def _close_calls(self, turn: Turn, text: str) -> None:
        """No way out of a turn leaves a call without its output."""
        for call in list(turn.open_calls):
            commit(self, turn, done(call, text, success=False))

    # --- the end ---------------------------------------------------------------------------------------------------

    def release(self, term: int) -> None:
        """Nobody holds the removed thread any more: it ends behind what was accepted. Runs in: the loop's OS thread."""
        if term != self._term:  # taken back since
            return
        self._released = True
        if self.phase == "idle":
            self.shut_down()

    def take_back(self) -> int:
        """Somebody wants a released thread again before it has ended; returns the term of the new handle, whose release
        alone counts from now on."""
        self._released = False
        self._term += 1
        return self._term

    def shut_down(self) -> None:
        """End: no turn runs, everything is recorded; who watches learns it when that is kept."""
        self._leave(Ended(self.thread_id, "shutdown"), Event(INITIAL_SUBMIT_ID, ShutdownComplete()))

    def _leave(self, ended: Ended, *last: Effect) -> None:
        if self.phase in ("stopping", "ended"):
            return
        self.phase = "stopping"
        for effect in last:
            self.record.show(effect)
        self.record.show(lambda: self._ended(ended))
        self.actor_stopped.set()
        self._finish()

    def _ended(self, ended: Ended) -> None:
        self.phase = "ended"
        self.watchers.finish(ended)
        self.control.tell(messages.ThreadEnded(self.thread_id))

    def _stop(self) -> None:
        """pykka's stop: as the op `shutdown`."""
        self._interrupt()
        self.shut_down()

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """A handler raised: this thread ends, in order, and no other."""
        message = f"{getattr(exception_type, '__name__', 'error')}: {exception_value}"
        self._released = False
        results = [accepted.result for accepted in self._pending or ()]
        acks = [accepted.ack for accepted in self._pending or ()]
        self._pending = None
        turn = self.turn
        if turn is not None:
            results += turn.results
            turn.results = []
            self._end_turn(error=message)
        for reply in (*results, *acks):
            if reply is not None:
                self.record.show(partial(reply.fail, InternalAgentDied(message)))
        last: tuple[Effect, ...] = () if turn is not None else (Event(INITIAL_SUBMIT_ID, Error(message=message)),)
        self._leave(Ended(self.thread_id, "crashed", message), *last)

    def _on_unwritten(self, error: RolloutError, is_first: bool) -> None:
        """The rollout could not be written: what waits for it is refused, the turn is stopped, nothing is forgotten."""
        self.record.refuse(error)
        if self.phase in ("stopping", "ended"):
            for effect in self.record.give_up():
                if isinstance(effect, Event) and not isinstance(effect.msg, TaskComplete | ShutdownComplete | Error):
                    self.pump.refuse(effect, str(error))
                elif isinstance(effect, Event):
                    self.watchers.publish(effect)
                else:
                    effect()
            return
        if is_first:
            self.watchers.publish(Event(self._event_id(), Error(message=str(error))))
        turn = self.turn
        if turn is not None:
            for reply in turn.results:
                reply.fail(error)
            self._end_turn(error=str(error))

    def _event_id(self) -> str:
        return INITIAL_SUBMIT_ID if self.turn is None else self.turn.id
