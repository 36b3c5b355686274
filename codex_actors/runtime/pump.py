"""The loop's side of the actors: it serves the mailboxes that have messages, and gives the loop back after 1 ms.

Only the loop's OS thread touches a mailbox. Other OS threads go through one deque and one `call_soon_threadsafe` per burst.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from codex_actors.errors import InternalAgentDied, UnsupportedOperation
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.deadlines import Deadlines
from codex_actors.runtime.reply import Reply

T = TypeVar("T")

logger = logging.getLogger("codex_actors")

SLICE_S = 0.001
DEAD_LETTERS = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be delivered, and why."""

    message: Any
    reason: str


def pass_on(loop: asyncio.AbstractEventLoop, error: KeyboardInterrupt) -> None:
    """Raise `error` out of `loop`, once, and not out of the code at work. Runs in: the loop's OS thread."""

    def interrupt() -> None:
        raise error

    loop.call_soon(interrupt)


class Served(Protocol):
    """What the pump serves."""

    def serve(self) -> bool:
        """Handle some messages; True if more wait. Runs in: the loop's OS thread."""
        ...


class Pump:
    """Serves the actors of one event loop, in the order in which they got something to do.

    Made in the loop's OS thread. Pump and handlers run in a copy of the context it was made in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.clock = clock
        self.pid = os.getpid()
        self.ident = threading.get_ident()
        self.context = contextvars.copy_context()
        self.pending: set[Any] = set()
        self.watching: weakref.WeakSet[Any] = weakref.WeakSet()
        self.dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_LETTERS)
        self._deadlines: dict[float, Deadlines] = {}
        self._ready: deque[Served] = deque()
        self._after: deque[Callable[[], Any]] = deque()
        self._foreign: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rung = False
        self._scheduled = False
        self._lost = False

    # --- from any OS thread ----------------------------------------------------------------------------------------

    def post(self, call: Callable[..., Any], *args: Any) -> None:
        """Have `call(*args)` run on the loop, in the order of the posts. Safe in a finalizer: no lock, no log, no wait.

        On a closed loop nothing runs any more; pending replies fail.
        """
        self._foreign.append((call, args))
        # A loop may be closed after it was rung for and before it came round.
        if not self._rung or self.loop.is_closed():
            self._rung = True
            try:
                self.loop.call_soon_threadsafe(self._take_foreign, context=self.context)
            except RuntimeError:
                self._lost = True
                self._foreign.clear()
                self.abandon()

    def call(self, call: Callable[[], T], timeout_s: float) -> Reply[T]:
        """Have `call()` run on the loop, in the order of the posts; the reply has what it returned or raised."""
        reply: Reply[T] = Reply(self, timeout_s)

        def run() -> None:
            try:
                reply.answer(call())
            except Exception as error:
                reply.fail(error)

        self.post(run)
        return reply

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None) -> Reply[T]:
        """Have a coroutine run as a task on the loop; the reply has what it returned or raised."""
        reply: Reply[T] = Reply(self, timeout_s)

        def ended(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                reply.fail(InternalAgentDied("its event loop ended"))
            elif (error := task.exception()) is not None:
                reply.fail(error)
            else:
                reply.answer(task.result())

        def start() -> None:
            task = self.loop.create_task(coroutine, context=self.context.copy())
            self._tasks.add(task)
            task.add_done_callback(ended)

        self.post(start)
        return reply

    def is_closed(self) -> bool:
        """Whether the loop will not serve any more."""
        return self._lost or self.loop.is_closed()

    def check_process(self) -> None:
        """Raise in a forked child: loop, OS threads and files belong to the process that made them."""
        if os.getpid() != self.pid:
            raise UnsupportedOperation(f"this manager belongs to process {self.pid}; make one in this process")

    def on_loop(self) -> bool:
        """Whether this is the loop's OS thread."""
        return threading.get_ident() == self.ident

    def abandon(self) -> None:
        """The loop is gone: every reply it owes fails."""
        while self.pending:
            try:
                reply = self.pending.pop()
            except KeyError:  # another OS thread has found out, too
                break
            reply.fail(InternalAgentDied("its event loop was closed"))
        for reply in list(self.watching):
            reply.fail(InternalAgentDied("its event loop was closed"))

    # --- in the loop's OS thread -----------------------------------------------------------------------------------

    def schedule(self, actor: Served) -> None:
        """Serve `actor` soon; the pump holds it until then."""
        self._ready.append(actor)
        self._soon()

    def after(self, call: Callable[[], Any]) -> None:
        """Run `call()` when the current handler has returned: an eager task must not start inside a handler."""
        self._after.append(call)
        self._soon()

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon(self._run, context=self.context)
            except RuntimeError:  # a task that is unwound behind the end of its loop
                self._lost = True
                self.abandon()

    def deadlines(self, limit_s: float) -> Deadlines:
        """The deadlines of all who wait for `limit_s`."""
        deadlines = self._deadlines.get(limit_s)
        if deadlines is None:
            deadlines = self._deadlines[limit_s] = Deadlines(self.loop, limit_s, self.context)
        return deadlines

    def refuse(self, message: Any, reason: str) -> None:
        """Keep what could not be delivered among the newest 1,000 dead letters."""
        self.dead_letters.append(DeadLetter(message, reason))
        logger.warning("dead letter (%s): %r", reason, message)

    def _take_foreign(self) -> None:
        # Lowered before the deque is read: a post that comes now either is read below or rings again.
        self._rung = False
        foreign = self._foreign
        try:
            while foreign:
                call, args = foreign.popleft()
                call(*args)
        finally:
            if foreign and not self._rung:
                self._rung = True
                self.loop.call_soon(self._take_foreign, context=self.context)

    def _run(self) -> None:
        ready, after, pick, passed_s = self._ready, self._after, self.clock.pick, self.clock.passed_s
        until_s, picks = passed_s() + SLICE_S, type(self.clock).pick is not Clock.pick
        try:
            while after:
                after.popleft()()
            while ready:
                if picks and (index := pick(len(ready))):
                    ready.rotate(-index)
                actor = ready.popleft()
                if actor.serve():
                    ready.append(actor)
                while after:
                    after.popleft()()
                if passed_s() > until_s:
                    break
        finally:
            # Also when a KeyboardInterrupt passes: what still waits is served in the loop's next round.
            if ready or after:
                self.loop.call_soon(self._run, context=self.context)
            else:
                self._scheduled = False
