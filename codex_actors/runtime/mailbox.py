"""The mailbox of an actor on a loop: two lanes, made on first use; it holds its actor only while messages wait."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from codex_actors.errors import InternalAgentDied
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply

if TYPE_CHECKING:
    from codex_actors.runtime.actor import LoopActor

STEP_BOUND = 512
"""Steps that wait in a lane before the turn task that tells them has to wait."""


class Letter(Envelope[Any]):
    """pykka's envelope, with the sender's context (ops only: a turn runs in the context of its `submit`)."""

    __slots__ = ("context",)

    def __init__(
        self, message: Any, reply_to: Reply[Any] | None = None, context: contextvars.Context | None = None
    ) -> None:
        super().__init__(message, reply_to)
        self.context = context


def unheeded(message: Any) -> Letter:
    """A letter that asks for nothing its receiver has not done by ending: if it has, the letter is no dead letter."""
    reply: Reply[Any] = Reply()
    reply.error()  # looked at
    return Letter(message, reply)


class Mailbox:
    """Control in the order sent, steps behind it. Closed at the actor's end: what comes later is refused, not lost."""

    __slots__ = ("__weakref__", "_actor", "_control", "_pump", "_room", "_scheduled", "_steps", "closed")

    def __init__(self, actor: LoopActor, pump: Pump) -> None:
        self._actor = weakref.ref(actor)
        self._pump = pump
        self._control: deque[Envelope[Any]] | None = None
        self._steps: deque[Any] | None = None
        self._room: asyncio.Future[None] | None = None
        self._scheduled = False
        self.closed = False

    # --- pykka's inbox ---------------------------------------------------------------------------------------------

    def put(self, envelope: Envelope[Any], /) -> None:
        """Deliver from any OS thread."""
        if self._pump.on_loop():
            self._deliver(self._actor(), envelope)
        else:
            self._pump.post(self._deliver, self._actor(), envelope)

    def get(self) -> Envelope[Any]:
        """Take the oldest control message. Runs in: the loop's OS thread."""
        if not self._control:
            raise LookupError("the mailbox is empty")
        return self._control.popleft()

    def empty(self) -> bool:
        """Whether no control message waits."""
        return not self._control

    # --- in the loop's OS thread -----------------------------------------------------------------------------------

    def _deliver(self, actor: LoopActor | None, envelope: Envelope[Any]) -> None:
        if actor is None or self.closed:
            self._refuse(envelope)
            return
        if self._control is None:
            self._control = deque()
        self._control.append(envelope)
        self._wake(actor)

    def _wake(self, actor: LoopActor) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._pump.schedule(actor)

    def served(self) -> bool:
        """Whether messages wait; says so to the pump after each slice."""
        if self._control:
            self._scheduled = True
        else:
            self._control = None  # an idle actor has no containers: thousands of them are idle
            self._scheduled = bool(self._steps)
            if not self._steps:
                self._steps = None
        return self._scheduled

    def put_step(self, actor: LoopActor, step: Any) -> bool:
        """Deliver a step of the actor's own turn task; False if the lane is full and the task should `room()`."""
        if self.closed:
            return True
        if self._steps is None:
            self._steps = deque()
        self._steps.append(step)
        self._wake(actor)
        return len(self._steps) < STEP_BOUND

    async def room(self) -> None:
        """Wait until half of the step lane is free."""
        while self._steps and len(self._steps) > STEP_BOUND // 2 and not self.closed:
            if self._room is None or self._room.done():
                self._room = self._pump.loop.create_future()
            await asyncio.shield(self._room)

    def take_step(self) -> Any:
        """The oldest step, or None."""
        if not self._steps:
            return None
        step = self._steps.popleft()
        if self._room is not None and len(self._steps) <= STEP_BOUND // 2:
            self._free()
        return step

    def take_steps(self) -> list[Any]:
        """All steps that wait, in order."""
        steps = list(self._steps or ())
        self._steps = None
        self._free()
        return steps

    def _free(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def close(self) -> None:
        """Refuse what waits and what will come: an ask that races the end is answered."""
        self.closed = True
        self._steps = None
        self._free()
        while self._control:
            self._refuse(self._control.popleft())
        self._control = None

    def _refuse(self, envelope: Envelope[Any]) -> None:
        reply = envelope.reply_to
        if reply is None:
            self._pump.refuse(envelope.message, "the actor has ended")
        elif isinstance(envelope.message, _ActorStop) and self.closed:
            reply.set(None)
        elif isinstance(reply, Reply):
            reply.fail(InternalAgentDied("it ended before it handled the message"))
        else:
            reply.set_exception((InternalAgentDied, InternalAgentDied("it ended before it handled the message"), None))
