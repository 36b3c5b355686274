"""Sync functions in daemon OS threads of our own: an executor's would be joined at exit and hang it."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from codex_actors.errors import UnsupportedOperation
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply, lend_place

WORKING_BOUND = 32
"""OS threads that work at once; one that waits in `Reply.get()` does not count."""

TOTAL_BOUND = 512
"""OS threads in all, with those that wait and those whose caller gave up."""

IDLE_S = 5.0
"""After this long without work an OS thread ends."""


@dataclass(slots=True)
class _Job:
    call: Callable[[], Any]
    context: contextvars.Context
    reply: Reply[Any]
    given_up: bool = False


class Workers:
    """A pool of daemon OS threads. All its state belongs to the loop's OS thread; the pool's own only tell it facts."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._waiting: deque[_Job] = deque()
        self._idle: list[queue.SimpleQueue[_Job | None]] = []
        self._total = 0
        self._working = 0
        self._closed = False
        self.abandoned = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        """Async tools that have not ended, kept here so that a close can count those that never do."""

    def submit(self, call: Callable[[], Any], context: contextvars.Context | None = None) -> tuple[Reply[Any], _Job]:
        """Have `call()` run in `context` (a copy of the current one by default); the reply has its result.

        Runs in: the loop's OS thread.
        """
        if self._closed:
            raise UnsupportedOperation("the manager is closed")
        job = _Job(call, contextvars.copy_context() if context is None else context, Reply(self._pump))
        self._waiting.append(job)
        self._hire()
        return job.reply, job

    async def run(self, call: Callable[[], Any], context: contextvars.Context | None = None) -> Any:
        """Run `call()` and wait for it. Cancelled, it is given up: the OS thread is abandoned and counted."""
        reply, job = self.submit(call, context)
        try:
            return await reply
        except BaseException:
            if not reply.done():
                self._give_up(job)
            raise

    def _give_up(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
            job.reply.cancel()
        else:
            job.given_up = True
            self.abandoned += 1
            self._change(-1)

    def _hire(self) -> None:
        while self._waiting and self._working < WORKING_BOUND:
            if self._idle:
                inbox = self._idle.pop()
            elif self._total < TOTAL_BOUND:
                inbox = queue.SimpleQueue()
                try:
                    threading.Thread(target=self._work, args=(inbox,), name="codex_actors-tool", daemon=True).start()
                except RuntimeError as error:
                    self._waiting.popleft().reply.fail(
                        UnsupportedOperation(f"a sync tool needs an OS thread ({error})")
                    )
                    continue
                self._total += 1
            else:
                return
            self._working += 1
            inbox.put(self._waiting.popleft())

    def _change(self, by: int) -> None:
        self._working += by
        self._hire()

    def _finished(self, inbox: queue.SimpleQueue[_Job | None], job: _Job) -> None:
        if job.given_up:
            self.abandoned -= 1
        else:
            self._working -= 1
        if self._closed:
            inbox.put(None)
        else:
            self._idle.append(inbox)
            self._hire()

    def _expired(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        # It may have been hired between its time-out and this: then it is no longer idle and goes on.
        if inbox in self._idle:
            self._idle.remove(inbox)
            self._total -= 1
            inbox.put(None)

    def close(self) -> None:
        """End the idle OS threads, refuse what waits; those at work end after their job. Runs in: the loop's OS thread."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().reply.fail(UnsupportedOperation("the manager is closed"))
        while self._idle:
            self._idle.pop().put(None)

    def _work(self, inbox: queue.SimpleQueue[_Job | None]) -> None:
        while True:
            try:
                job = inbox.get(timeout=IDLE_S)
            except queue.Empty:
                self._pump.post(self._expired, inbox)
                if self._pump.is_closed():
                    return
                job = inbox.get()
            if job is None:
                return
            try:
                job.reply.answer(job.context.run(self._call, job.call))
            except BaseException as error:
                job.reply.fail(error)
            self._pump.post(self._finished, inbox, job)
            if self._pump.is_closed():
                return
            del job

    def _call(self, call: Callable[[], Any]) -> Any:
        lend_place.set(self._lend)
        return call()

    @contextmanager
    def _lend(self) -> Iterator[None]:
        self._pump.post(self._change, -1)
        try:
            yield
        finally:
            self._pump.post(self._change, 1)
