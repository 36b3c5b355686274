"""`ThreadActor`: one thread. The only writer of its history, its status and its rollout.

Its life is one state machine: `starting → idle ⇄ running → stopping → ended`. A turn never runs in here: a turn task runs
it and tells each step; a step of a turn that has ended is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from codex_actors.actors import messages
from codex_actors.actors.birth import Birth, configure
from codex_actors.actors.control import AgentControl
from codex_actors.actors.degraded import (
    drop_held_inputs,
    on_patience_lost,
    on_too_much,
    on_unwritten,
    on_written,
    when_writable,
)
from codex_actors.actors.ops import handle_op, steer, take_in
from codex_actors.actors.record import Answer, Effect, ThreadRecord
from codex_actors.actors.settings import hold_policy, stricter
from codex_actors.actors.shared import Shared
from codex_actors.actors.steps import COMMIT
from codex_actors.actors.turn_state import Accepted, Turn
from codex_actors.actors.turn_task import TakeInput, TurnEnded
from codex_actors.actors.turns import INTERRUPTED, close_calls, end_turn, request_of, take_told, take_waiting
from codex_actors.actors.waiting import Waiting, notice_of
from codex_actors.actors.watchers import Watchers
from codex_actors.config import Config
from codex_actors.errors import InternalAgentDied, RolloutError, RolloutUnavailable
from codex_actors.protocol.events import (
    Error,
    Event,
    EventMsg,
    SessionConfigured,
    ShutdownComplete,
    TaskComplete,
    Warning,
)
from codex_actors.protocol.history import Forked, SubAgentSource, ThreadSource
from codex_actors.protocol.ids import INITIAL_SUBMIT_ID, ThreadId
from codex_actors.protocol.ops import ApprovalPolicy
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.protocol.wire import made
from codex_actors.runtime.actor import LATER, LoopActor
from codex_actors.runtime.status_watch import StatusCell
from codex_actors.runtime.streams import EventStream
from codex_actors.tools.toolbox import Toolbox

Phase = Literal["starting", "idle", "running", "stopping", "ended"]


class ThreadActor(LoopActor):
    """One thread. Made by the supervisor, which holds it through its `CodexThread`."""

    is_registered = False
    config: Config
    cwd: Path
    model: str
    session_configured: SessionConfigured
    """Set when it is removed from the list: it may need a new handle before it has ended."""
    # What most threads never set stands here: an instance with more than 30 attributes of its own costs 1 KiB more.
    turn: Turn | None = None
    waiting: Waiting | None = None
    toolbox: Toolbox | None = None
    is_released = False
    is_unreported = False
    has_new_context = False
    """Whether its model was not told yet that the settings changed."""
    has_held_inputs = False
    """Whether what waits is to have a turn as soon as the rollout can be written."""
    own_policy: ApprovalPolicy = "never"
    parent_policy: ApprovalPolicy = "never"
    approved: frozenset[tuple[tuple[str, ...], str]] = frozenset()
    """The commands, with their folders, that were approved for as long as it lives."""
    _is_cut = False
    _is_withdrawn = False
    _term = 0

    def __init__(
        self,
        shared: Shared,
        thread_id: ThreadId,
        control: AgentControl,
        source: ThreadSource,
        awaits_input: bool,
        born: Callable[[ThreadActor], None],
    ) -> None:
        super().__init__(pump=shared.pump)
        self.shared = shared
        self.thread_id = thread_id
        self.control = control
        parent = source if isinstance(source, SubAgentSource) else None
        self.parent_id = None if parent is None else parent.parent_thread_id
        self.depth = 0 if parent is None else parent.depth
        self.is_agent = awaits_input or parent is not None
        self.phase: Phase = "starting"
        self.watchers = Watchers(shared.pump)
        self.record = ThreadRecord(shared, self.watchers, self)
        self._born: Callable[[ThreadActor], None] | None = born
        self.birth: Birth | None = None
        self.awaits_input = awaits_input
        if self.is_agent:
            control.tree.add(self)
        if awaits_input:  # what is resumed is not at work before it is given input
            control.tree.works(self)

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
                return handle_op(self, message.submission)
            case messages.RunInput():
                accepted = Accepted.of(message.submission, self.sender_context)
                accepted.result = self.reply_to
                when_writable(self, accepted, partial(take_in, self, accepted))
                return LATER
            case messages.SteerInput():
                return steer(self, message.submission, message.expected_turn_id)
            case messages.Configure():
                return self._configure(message)
            case messages.CancelRun():
                self._cancel_run(message.submission_id)
            case messages.InterruptAgent():
                self._is_cut = self.awaits_input  # a newborn's turn is interrupted as soon as it begins
                self.interrupt(is_along=True)
            case messages.TakeNotice():
                self._take_notice(message)
            case messages.GiveHistory():
                return self.record.recorded()
            case messages.Subscribe():
                self.watchers.subscribe(message.ref)
            case messages.Unsubscribe():
                self.watchers.unsubscribe(message.ref)
            case messages.HoldPolicy():
                self.parent_policy = message.approval_policy
                hold_policy(self)
            case messages.WarnOf():
                self.watchers.publish(Event(self._event_id(), Warning(message=message.message)))
            case _:
                raise TypeError(f"{type(message).__name__} is no message to a thread")
        return None

    # --- birth -----------------------------------------------------------------------------------------------------

    def _configure(self, message: messages.Configure) -> Any:
        self.config = message.config
        if message.config.approval_policy != "never":
            self.own_policy = message.config.approval_policy
        if message.parent_policy != "never":
            self.parent_policy = message.parent_policy
            policy = stricter(self.own_policy, self.parent_policy)
            self.config = replace(message.config, approval_policy=policy)
        if self.config.approval_policy != "never":  # its agents may have been resumed before it
            self.control.tell(messages.PolicyChanged(self.thread_id, self.config.approval_policy, self.control))
        self.cwd = self.config.cwd or self.shared.cwd()
        self.model = message.model
        birth = configure(self.shared, self.thread_id, message, self.config, str(self.cwd))
        record = self.record
        if birth.state is not None:
            record.load(birth.state, birth.lines, birth.history)
        record.path, record.pages = birth.path, birth.pages
        if birth.meta is not None:
            record.begin(birth.meta)
        if birth.pending:
            self.waiting = Waiting(record, self.pump, map(Accepted.found, birth.pending))
        self.birth = birth
        self.watchers.cell.status = birth.status
        self.phase = "idle"
        if not self.awaits_input:
            self.rest()
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
            record.show(Answer(self.reply_to, event, is_patient=False))
        return LATER

    # --- ops (see `ops`) -------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """Its first input was taken in; the interrupt that came before it counts now."""
        self.awaits_input = False
        if self._is_cut:
            self._is_cut = False
            self.interrupt()

    def wait(self) -> Waiting:
        """What waits for its next model request, or will."""
        if self.waiting is None:
            self.waiting = Waiting(self.record, self.pump)
        return self.waiting

    def _cancel_run(self, submission_id: str) -> None:
        waits = self.waiting is not None and self.waiting.holds(submission_id)
        if self.turn is not None and (waits or submission_id in self.turn.submission_ids):
            self.interrupt()

    def interrupt(self, *, is_along: bool = False) -> None:
        """Abort what was sent before. What the task has already told has happened; its deltas are dropped. The thread's
        agents are interrupted with it; those of an idle one only when it `is_along` itself."""
        take_told(self)
        if self.turn is not None:
            close_calls(self, self.turn, INTERRUPTED)  # first: nothing comes between a call and its output
            take_waiting(self, self.turn)
            end_turn(self, aborted="interrupted")
        elif not is_along:
            return
        self.control.tell(messages.ThreadInterrupted(self.thread_id, self.control))

    def _take_notice(self, message: messages.TakeNotice) -> None:
        """An idle thread records it, unless it has recorded nothing yet; a running one does before its next request."""
        self.wait().notices.append(notice_of(message.thread_id, message.status))
        if self.turn is None and self.phase == "idle" and self.record.is_begun:
            self.record_notices()

    def record_notices(self) -> None:
        """Make the notices that wait part of the history."""
        notices = [] if self.waiting is None else self.waiting.take_notices()
        if notices:
            self.record_owed()
        for notice in notices:
            self.record.add_item(notice)

    def record_owed(self) -> None:
        """Write the outputs that cut calls never got: in the file, too, nothing comes between a call and its output."""
        if self.birth is not None and self.birth.owed:
            self.record.add(*self.birth.owed)
            self.birth.owed = ()

    # --- its turn (see `turns`) --------------------------------------------------------------------------------------

    def on_step(self, told: tuple[str, Any]) -> None:
        """Commit a step of the running turn; a stale one is dropped. Runs in: the loop's OS thread."""
        turn_id, step = told
        turn = self.turn
        if turn is None or turn.id != turn_id:
            return
        if isinstance(step, TurnEnded):
            end_turn(self, error=step.error, cause=step.cause, finished=True)
        elif isinstance(step, TakeInput):
            take_waiting(self, turn)
            if not step.request.done():
                step.request.set_result(request_of(self, turn))
        else:
            COMMIT[type(step)](self, turn, step)

    def emit(self, turn: Turn, msg: EventMsg) -> None:
        """Show an event of the turn, behind what was recorded before it."""
        self.record.show(Event(turn.id, msg))

    def rest(self) -> None:
        """Idle: no longer among the agents at work."""
        self.phase = "idle"
        if self.is_agent:
            self.control.tree.rests(self)

    def report(self, status: AgentStatus) -> None:
        """Tell the parent how a turn ended, once, when that is kept."""
        self.is_unreported = False
        if self.parent_id is not None:
            told = messages.AgentFinished(self.parent_id, self.thread_id, status)
            self.record.show(lambda: None if self._is_withdrawn else self.control.tell(told))

    # --- the end ---------------------------------------------------------------------------------------------------

    def release(self, term: int) -> None:
        """Nobody holds the removed thread any more: it ends behind what was accepted. Runs in: the loop's OS thread."""
        if term != self._term:  # taken back since
            return
        self.is_released = True
        if self.phase == "idle":
            self.shut_down()

    def take_back(self) -> int:
        """Somebody wants a released thread again before it has ended; returns the term of the new handle, whose release
        alone counts from now on."""
        self.is_released = False
        self._term += 1
        return self._term

    def withdraw(self) -> None:
        """Its first input was refused: it never was an agent, and its parent is told nothing of it."""
        self._is_withdrawn = True
        self.stop_now()

    def shut_down(self) -> None:
        """End: no turn runs, everything is recorded; who watches learns it when that is kept."""
        self.leave(Ended(self.thread_id, "shutdown"), Event(INITIAL_SUBMIT_ID, ShutdownComplete()))

    def leave(self, ended: Ended, *last: Effect) -> None:
        """End, behind these effects, once."""
        if self.phase in ("stopping", "ended"):
            return
        self.rest()
        self.phase = "stopping"
        drop_held_inputs(self)
        for effect in last:
            self.record.show(effect)
        if self.is_unreported:
            self.report(AgentStatus.SHUTDOWN)
        self.record.show(lambda: self._ended(ended))
        if self.record.is_degraded:  # once more, and then it has ended
            self.record.retry()
        self.actor_stopped.set()
        self._finish()

    def _ended(self, ended: Ended) -> None:
        self.phase = "ended"
        self.record.close()
        self.watchers.finish(ended)
        if self.is_agent:
            self.control.tree.remove(self)
        self.control.tell(messages.ThreadEnded(self.thread_id, self.control))

    def stop_now(self) -> None:
        """As the op `shutdown`, in front of all that waits in the mailbox. Runs in: the loop's OS thread."""
        self.interrupt()
        self.shut_down()

    _stop = stop_now

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """A handler raised: this thread ends, in order, and no other."""
        message = f"{getattr(exception_type, '__name__', 'error')}: {exception_value}"
        self.is_released = False
        waiting = [] if self.waiting is None else self.waiting.take_inputs()
        turn = self.turn
        results = [] if turn is None else turn.results
        last: tuple[Effect, ...] = ()
        try:
            if turn is not None:
                turn.results = []
                end_turn(self, error=message)
            else:
                last = (Event(INITIAL_SUBMIT_ID, Error(message=message)),)
                self.report(AgentStatus.errored(message))
        except Exception:
            if turn is not None:  # its end failed, too: the least that watchers are owed
                self.turn = None
                self.emit(turn, made(TaskComplete, turn_id=turn.id, error=message))
            raise
        finally:  # whatever else fails, its end comes and everybody who waits is told
            died = InternalAgentDied(message)
            for accepted in waiting:
                self.record.show(partial(accepted.fail, died))
            for reply in results:
                self.record.show(partial(reply.fail, died))
            self.leave(Ended(self.thread_id, "crashed", message), *last)

    def on_kept(self, number: int, error: RolloutError | None) -> None:
        """The writer has dealt with an append. Runs in: the loop's OS thread."""
        self.record.kept(number, error)

    def on_unwritten(self, error: RolloutError, is_first: bool) -> None:
        """See `degraded.on_unwritten`."""
        on_unwritten(self, error, is_first)

    def on_written(self) -> None:
        """See `degraded.on_written`."""
        on_written(self)

    def on_too_much(self, error: RolloutUnavailable) -> None:
        """See `degraded.on_too_much`."""
        on_too_much(self, error)

    def on_patience_lost(self, error: RolloutError) -> None:
        """See `degraded.on_patience_lost`."""
        on_patience_lost(self, error)

    def _event_id(self) -> str:
        return INITIAL_SUBMIT_ID if self.turn is None else self.turn.id
