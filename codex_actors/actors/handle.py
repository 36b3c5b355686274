"""`CodexThread`: what a client holds of a thread. There is one per live thread.

Source: `codex-rs/core/src/codex_thread.rs`, `CodexThread`; `thread_manager.rs`, `NewThread`.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codex_actors.actors import messages
from codex_actors.actors.shared import Shared
from codex_actors.protocol.events import Event, SessionConfigured, TokenUsage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputItem
from codex_actors.protocol.ops import Op, Submission, UserInput, parse_input, parse_op
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.actor import HostRef, check_ref, tell_ref
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply, answered
from codex_actors.runtime.status_watch import StatusWatch
from codex_actors.runtime.streams import EventStream, NextEvent
from codex_actors.turn import TurnResult

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor

R = TypeVar("R")
T = TypeVar("T")


class CodexThread:
    """A live thread. Every method may be called from any OS thread.

    Attributes:
        thread_id: Its id.
        session_configured: Its first event.
    """

    __slots__ = ("__weakref__", "_actor", "_shared", "_term", "session_configured", "thread_id")

    def __init__(
        self, shared: Shared, actor: ThreadActor, session_configured: SessionConfigured, term: int = 0
    ) -> None:
        self._shared = shared
        self._actor = actor
        self._term = term
        self.thread_id: ThreadId = actor.thread_id
        self.session_configured = session_configured

    def __repr__(self) -> str:
        return f"<CodexThread {self.thread_id} {self.agent_status()}>"

    @property
    def rollout_path(self) -> Path | None:
        """Where it is kept (from its first turn on), or None if it is not."""
        return self._actor.record.path

    @property
    def is_degraded(self) -> bool:
        """Whether its rollout cannot be written now: its lines wait, and it takes no input until they are written."""
        return self._actor.record.is_degraded

    # --- replies ---------------------------------------------------------------------------------------------------

    def submit(self, op: Op | Mapping[str, Any]) -> Reply[str]:
        """Send an op; answered with the submission id when it is accepted.

        Accepted means as durable as the manager's `durability`. Ops are taken in the order sent; while 64 inputs wait
        for a running turn, further ones wait to be accepted, for nearly `ask_timeout_s`.

        Raises:
            InvalidRequest: it is no op.
            InputRefused: by the reply: 64 others went on waiting; it was not taken in.
            RolloutUnavailable: by the reply: its line could not be written. Of a thread that `is_degraded` it was refused.
                Else it was taken in (`is_taken_in`), is written as soon as the disk takes it, and this is told after
                `degraded_timeout_s`: do not send it again.
        """
        message = messages.SubmitOp(Submission(id=self._next_id(), op=parse_op(op)))
        return self._ask(message, self._shared.config.ask_timeout_s)

    def run(self, text_or_items: str | Sequence[InputItem | str] | UserInput) -> Reply[TurnResult]:
        """Give input and wait for the turn that takes it in: the result comes whatever model, tools or interrupt did.

        While a turn runs, the input joins it, and both callers get the same result. `reply.cancel()` interrupts the turn.

        Raises:
            InvalidRequest: it is no input.
            InternalAgentDied: by the reply: the thread ended first.
            RolloutUnavailable: by the reply: see `submit`.
        """
        submission = Submission(id=self._next_id(), op=parse_input(text_or_items))
        config = self._shared.config
        inbox = self._actor.actor_inbox
        return self._ask(
            messages.RunInput(submission),
            config.turn_timeout_s + config.ask_timeout_s,
            on_cancel=lambda: inbox.put(Letter(messages.CancelRun(submission.id))),
        )

    def steer(
        self, text_or_items: str | Sequence[InputItem | str] | UserInput, *, expected_turn_id: str | None = None
    ) -> Reply[str]:
        """Give the running turn input; answered with that turn's id when it is accepted.

        It is part of the turn's next model request; where the turn ends before that, it begins the next turn.

        Raises:
            InvalidRequest: it is no input.
            NoActiveTurn: by the reply: no turn runs that takes input. It was not taken in.
            ExpectedTurnMismatch: by the reply: another turn than `expected_turn_id` runs. It was not taken in.
            InputRefused: by the reply: see `submit`.
            RolloutUnavailable: by the reply: see `submit`.
        """
        submission = Submission(id=self._next_id(), op=parse_input(text_or_items))
        message = messages.SteerInput(submission, expected_turn_id)
        return self._ask(message, self._shared.config.ask_timeout_s)

    def next_event(self) -> Reply[Event]:
        """The next event of the thread's own stream, open from its birth (behind `session_configured`).

        It keeps the newest 64 events, and until its first call only the first 16 deltas; a `Lagged` stands for what is
        missing. Several readers share it: each event goes to one. Fails with `InternalAgentDied` behind the last event.
        """
        self._shared.check_process()
        config = self._shared.config
        return NextEvent(self._on_loop(self._actor.own_stream), config.turn_timeout_s + config.ask_timeout_s)

    def subscribe(self, ref: HostRef) -> Reply[None]:
        """Tell each `Event` from now on, and `Ended` at the end, to a pykka actor of any kind, until it has ended.

        Raises:
            InvalidRequest: it is no `pykka.ActorRef`.
        """
        check_ref(ref)
        ended = self._actor.cell.ended
        if ended is not None:
            tell_ref(ref, ended)
            return answered(None)
        return self._ask(messages.Subscribe(ref), self._shared.config.ask_timeout_s)

    def unsubscribe(self, ref: HostRef) -> Reply[None]:
        """Undo `subscribe`; a ref that is not subscribed is ignored."""
        return self._ask(messages.Unsubscribe(ref), self._shared.config.ask_timeout_s)

    # --- values ----------------------------------------------------------------------------------------------------

    def events(self) -> EventStream:
        """A stream of every event from now on."""
        self._shared.check_process()
        stream = EventStream(self._shared.pump, self)
        self._on_loop(lambda: self._actor.attach(stream))
        return stream

    def agent_status(self) -> AgentStatus:
        """The latest status."""
        return self._actor.cell.status

    def watch_status(self) -> StatusWatch:
        """A watch on the status."""
        self._shared.check_process()
        config = self._shared.config
        return StatusWatch(self._shared.pump, self._actor.cell, self, config.turn_timeout_s + config.ask_timeout_s)

    def total_token_usage(self) -> TokenUsage:
        """The sum over all requests, with those of a resumed or forked history."""
        usage = self._actor.record.usage
        return TokenUsage() if usage is None else usage.total_token_usage

    # --- how -------------------------------------------------------------------------------------------------------

    def _next_id(self) -> str:
        return str.__str__(self._shared.clock.uuid7())

    def _ask(
        self, message: messages.Message[R], timeout_s: float, on_cancel: Callable[[], Any] | None = None
    ) -> Reply[R]:
        self._shared.check_process()
        reply: Reply[R] = Reply(self._shared.pump, timeout_s, on_cancel)
        self._actor.actor_inbox.put(Letter(message, reply, contextvars.copy_context()))
        return reply

    def _on_loop(self, call: Callable[[], T]) -> T:
        """Run `call()` on the loop and wait: what follows it is in order with the thread's events."""
        pump = self._shared.pump
        if pump.on_loop() or pump.is_closed():
            return call()
        return pump.call(call, self._shared.config.ask_timeout_s).get()

    def __del__(self) -> None:
        # Listed threads are held by the supervisor: the last holder of a removed one is gone.
        if not self._actor.has_ended and os.getpid() == self._shared.pid:
            self._shared.pump.post(self._actor.release, self._term)


@dataclass(frozen=True, slots=True)
class NewThread:
    """A thread that was started, resumed or forked."""

    thread_id: ThreadId
    thread: CodexThread
    session_configured: SessionConfigured
