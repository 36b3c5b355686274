"""`EventStream`: every event of a thread, in order, for one reader.

The thread's actor writes on the loop; a reader may be on any loop or OS thread. Each counter has one writer, so no lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from codex_actors.errors import DeadlockError, InternalAgentDied, ReplyTimeout
from codex_actors.protocol.events import (
    AgentMessageDelta,
    AgentReasoningDelta,
    Event,
    ExecCommandOutputDelta,
    Lagged,
    StreamOverrun,
)
from codex_actors.protocol.status import Ended
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply

DELTA_BOUND = 8_192
EVENT_BOUND = 4_096
OWN_BOUND = 64
UNREAD_DELTAS = 16

DELTAS = (AgentMessageDelta, AgentReasoningDelta, ExecCommandOutputDelta)
"""Events that are not kept and may be missed by a slow reader."""


Waiter: TypeAlias = "asyncio.Future[bool] | Callable[[], None]"
"""A reader that waits on the manager's loop, or what wakes one elsewhere."""


class EventStream:
    """A thread's events from the moment it was made: `for`, `async for`, `close()`, `with`.

    A slow reader misses deltas beyond 8,192 that wait (a `Lagged` stands in their place); one that lets 4,096 other
    events wait gets a `StreamOverrun` as its last event. The iteration ends with the thread; `ended` then says why.
    Holding a stream keeps its thread alive; a stream that is collected is unsubscribed.
    """

    __slots__ = (
        "__weakref__", "_buffer", "_closed", "_keep", "_next", "_overrun", "_popped", "_pump", "_pushed", "_rolling",
        "_seq", "_stash", "_waiters", "ended",
    )  # fmt: skip

    def __init__(self, pump: Pump, keep: Any, *, rolling: bool = False) -> None:
        self._pump = pump
        self._keep = keep
        self._rolling = rolling
        # Each event has a running number; one that is missed leaves a gap in the numbers, which the reader sees.
        self._buffer: deque[tuple[int, Event]] = deque(maxlen=OWN_BOUND if rolling else None)
        self._seq = 0
        self._next = 1
        self._stash: Event | None = None
        self._pushed = [0, 0]
        self._popped = [0, 0]
        self._overrun: str | None = None
        self._closed = False
        self._waiters: deque[Waiter] | None = None if rolling else deque()
        self.ended: Ended | None = None

    # --- the writer's side, in the loop's OS thread ----------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Add an event, within the bounds. Runs in: the loop's OS thread."""
        if self._closed:
            return
        number = self._seq + 1
        if self._rolling:
            # Nobody may ever read it, and a thousand floods of deltas kept for nobody are what makes a full garbage
            # collection long: so until it is first read it keeps only the first deltas, and then the newest of all.
            if self._waiters is not None or type(event.msg) not in DELTAS or self._is_early():
                self._buffer.append((number, event))
        elif self._overrun is None and self._fits(event):
            self._buffer.append((number, event))
        # Behind the append: a reader that sees the number finds the event, or knows that it is missed.
        self._seq = number
        if self._waiters:
            self._wake()

    def _is_early(self) -> bool:
        self._pushed[True] += 1
        return self._pushed[True] <= UNREAD_DELTAS

    def _fits(self, event: Event) -> bool:
        is_delta = type(event.msg) in DELTAS
        if self._pushed[is_delta] - self._popped[is_delta] < (DELTA_BOUND if is_delta else EVENT_BOUND):
            self._pushed[is_delta] += 1
            return True
        if not is_delta:
            self._overrun = event.id
        return False

    def finish(self, ended: Ended) -> None:
        """No more events. Runs in: the loop's OS thread."""
        self.ended = ended
        self._keep = None
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:  # another OS thread closed the stream meanwhile
                return
            if not isinstance(waiter, asyncio.Future):
                waiter()
            elif self._pump.on_loop():
                _let_go(waiter)
            else:
                self._pump.post(_let_go, waiter)

    def readable(self) -> EventStream:
        """This stream, with room for readers that wait: most threads' own stream is never read."""
        if self._waiters is None:
            self._waiters = deque()
        return self

    # --- the reader's side, on any OS thread -----------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading: what waits is forgotten, and a reader that waits gets the end."""
        self._closed = True
        self._buffer.clear()
        self._stash = self._keep = None
        self._wake()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Event | None:
        """The oldest event that waits, or None."""
        if self._closed:
            return None
        if self._stash is not None:
            event, self._stash = self._stash, None
            return event
        seen = self._seq
        if not self._buffer and self._next > seen:
            return None
        try:
            number, event = self._buffer.popleft()
        except IndexError:
            return self._take_gap(seen)
        if not self._rolling:
            self._popped[type(event.msg) in DELTAS] += 1
        missed, self._next = number - self._next, number + 1
        if missed > 0:
            self._stash = event
            return Event("", Lagged(missed=missed))
        return event

    def _take_gap(self, seen: int) -> Event | None:
        """What was missed at the end of the stream so far, up to the event number `seen`."""
        missed = seen + 1 - self._next
        if missed <= 0 or self._closed:
            return None
        self._next = seen + 1
        if self._overrun is None:
            return Event("", Lagged(missed=missed))
        self._closed = True
        return Event("", StreamOverrun(missed=missed, since=self._overrun))

    @property
    def has_event(self) -> bool:
        """Whether `take` has one."""
        return not self._closed and (bool(self._buffer) or self._stash is not None or self._next <= self._seq)

    @property
    def is_over(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return (self._closed or self.ended is not None) and not self.has_event

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event; None at the end. Cancelled, it takes none.

        Raises:
            ReplyTimeout: `timeout_s` passed.
            DeadlockError: called on another loop in the OS thread of the manager's loop.
            UnsupportedOperation: called in a forked child process.
        """
        while (event := self.take()) is None:
            if self.is_over or not await self.until_something(timeout_s):
                return None
        return event

    def until_something(self, timeout_s: float | None) -> Awaitable[bool]:
        """Wait until there may be something to take, or the end; False if the loop was closed. Raises as `next`."""
        loop = asyncio.get_running_loop()
        if loop is not self._pump.loop:
            return self._until_something_elsewhere(timeout_s)
        waiter: asyncio.Future[bool] = loop.create_future()
        waiters = self._waiters
        while waiters and isinstance(waiters[-1], asyncio.Future) and waiters[-1].done():
            waiters.pop()  # of readers that gave up
        self._wait(waiter)
        if timeout_s is not None:
            timer = loop.call_later(timeout_s, _expire, waiter, timeout_s)
            waiter.add_done_callback(lambda _: timer.cancel())
        return waiter

    async def _until_something_elsewhere(self, timeout_s: float | None) -> bool:
        self._pump.check_process()
        if self._pump.on_loop() and not self._pump.is_closed():
            raise DeadlockError("reading a stream from another event loop on the same OS thread")
        reply = self._something(timeout_s)
        try:
            await reply
        except InternalAgentDied:
            return False
        finally:
            reply.answer(None)
        return True

    def next_blocking(self, timeout_s: float | None = None) -> Event | None:
        """As `next`, blocking the OS thread; not on the loop's own."""
        while (event := self.take()) is None:
            if self.is_over or not self.until_something_blocking(timeout_s):
                return None
        return event

    def until_something_blocking(self, timeout_s: float | None) -> bool:
        """As `until_something`, blocking the OS thread."""
        reply = self._something(timeout_s)
        try:
            reply.get()
        except InternalAgentDied:
            return False
        finally:
            reply.answer(None)
        return True

    def _something(self, timeout_s: float | None) -> Reply[None]:
        """A reply that is answered when there is something to take, or the end; it fails when the loop is closed."""
        reply: Reply[None] = Reply(self._pump, timeout_s)
        wake = partial(_answer, reply)
        self._wait(wake)
        reply.when_done(partial(self._forget, wake))
        if self.has_event or self.is_over:  # it came between the look and the wait
            reply.answer(None)
        return reply

    def _wait(self, waiter: Waiter) -> None:
        assert self._waiters is not None
        self._waiters.append(waiter)
        if self._closed:  # by another OS thread, between the look and the wait; events come on the loop's
            self._wake()

    def _forget(self, waiter: Waiter) -> None:
        if self._waiters:
            with suppress(ValueError, IndexError):  # it was woken, or another OS thread is at it: then it wakes nobody
                self._waiters.remove(waiter)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self.next_blocking()
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while (event := self.take()) is None:
            if self.is_over or not await self.until_something(None):
                raise StopAsyncIteration
        return event


def _let_go(waiter: asyncio.Future[bool]) -> None:
    """Runs in: the loop's OS thread."""
    if not waiter.done():
        waiter.set_result(True)


def _expire(waiter: asyncio.Future[bool], timeout_s: float) -> None:
    if not waiter.done():
        waiter.set_exception(ReplyTimeout(timeout_s))


def _answer(reply: Reply[None]) -> None:
    reply.answer(None)


class NextEvent(Reply[Event]):
    """The reply of `next_event()`: it takes an event from the thread's own stream only when somebody waits for it, so
    that a waiter who gives up loses none."""

    def __init__(self, stream: EventStream, timeout_s: float) -> None:
        super().__init__(None, timeout_s)
        self._stream = stream
        self._taking = threading.Lock()

    def done(self) -> bool:
        """Whether an event waits."""
        return self._done or self._stream.has_event or self._stream.is_over

    def get(self, *, timeout: float | None = None) -> Event:
        """As `Reply.get`."""
        limit_s = self._timeout_s if timeout is None else timeout
        while not self._take():
            if not self._stream.until_something_blocking(limit_s):
                self._end()
        return self._result()

    def __await__(self) -> Any:
        while not self._take():
            if not (yield from self._stream.until_something(self._timeout_s).__await__()):
                self._end()
        return self._result()

    __iter__ = __await__

    def _take(self) -> bool:
        """Whether it is answered now. Of several waiters the first to come takes an event, for all of them."""
        with self._taking:
            if self._done:
                return True
            event = self._stream.take()
            if event is not None:
                self.answer(event)
            elif self._stream.is_over:
                self._end()
        return self._done

    def _end(self) -> None:
        self.fail(InternalAgentDied("the thread has ended"))
