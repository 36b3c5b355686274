"""`Reply`: one answer, for `get()` in sync code and `await` in asyncio code.

A deadline belongs to the waiter: when it passes, or the waiter is cancelled, the work goes on and the same reply can be
waited for again.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import pykka

from codex_actors.errors import DeadlockError, InternalAgentDied, ReplyCancelled, ReplyTimeout
from codex_actors.runtime.deadlines import Deadlines

T = TypeVar("T")
M = TypeVar("M")

logger = logging.getLogger("codex_actors")

LOOP_CHECK_S = 0.5
"""How often a blocked OS thread looks whether the loop that owes it an answer was closed under it."""

lend_place: ContextVar[Callable[[], AbstractContextManager[None]] | None] = ContextVar("lend_place", default=None)
"""Set for sync tools: entered around a blocking wait, so that another tool may work meanwhile."""


class Home(Protocol):
    """The loop that has to answer."""

    ident: int
    loop: asyncio.AbstractEventLoop
    pending: set[Any]

    def deadlines(self, limit_s: float) -> Deadlines:
        """The deadlines of all who wait on that loop for `limit_s`."""
        ...

    def is_closed(self) -> bool:
        """Whether that loop will not run again."""
        ...

    def check_process(self) -> None:
        """Raise `UnsupportedOperation` in a forked child, where it never runs."""
        ...


class Reply(pykka.Future[T]):
    """The answer to an ask: `reply.get(timeout=...)` from any OS thread but the loop's, `await reply` from any loop.

    Several may wait, each until its own deadline; without one, the reply's default holds. Fits `asyncio.gather`,
    `wait_for`, `timeout`, `as_completed` and `shield`; for `TaskGroup.create_task`, which takes coroutines only, wrap it.
    """

    _sources: tuple[pykka.Future[Any], ...] | None = None
    _derive: Callable[..., Any] | None = None
    _exc_info: Any = None
    _error: BaseException | None = None
    _hook_lock: threading.Lock | None = None
    _seen = False
    _value: Any = None

    def __init__(
        self, home: Home | None = None, timeout_s: float | None = None, on_cancel: Callable[[], Any] | None = None
    ) -> None:
        super().__init__()
        self._home = home
        self._timeout_s = timeout_s
        self._on_cancel = on_cancel
        self._done = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], Any]] | None = None
        if home is not None:
            home.pending.add(self)

    def __repr__(self) -> str:
        state = "pending" if not self.done() else "failed" if self._error or self._exc_info else "answered"
        return f"<{type(self).__name__} {state}>"

    # --- answering -------------------------------------------------------------------------------------------------

    def set(self, value: T | None = None) -> None:
        """Answer. Raises `queue.Full` (pykka's contract) if it is answered already."""
        if not self._settle(value, None, None):
            raise queue.Full

    def set_exception(self, exc_info: Any = None) -> None:
        """Answer with an exception, traceback included (pykka's contract)."""
        if not self._settle(None, None, sys.exc_info() if exc_info is None else exc_info):
            raise queue.Full

    def fail(self, error: BaseException) -> bool:
        """Answer with an exception whose frames are not kept; False if it was answered already."""
        return self._settle(None, without_frames(error), None)

    def answer(self, value: T) -> bool:
        """Answer; False if it was answered already."""
        return self._settle(value, None, None)

    def _settle(self, value: Any, error: BaseException | None, exc_info: Any) -> bool:
        with self._lock:
            if self._done or self._get_hook is not None:
                return False
            if error is not None:
                self._error = error
            elif exc_info is not None:
                self._exc_info = exc_info
            else:
                self._value = value
            self._done = True
            callbacks, self._callbacks = self._callbacks, None
        self._on_cancel = None
        if self._home is not None:
            self._home.pending.discard(self)
        if callbacks is not None:
            for callback in callbacks:
                callback()
        return True

    def when_done(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` once when it is answered, at once if it is.

        Runs in: the OS thread that answers.
        """
        with self._lock:
            if not self._done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    def _forget(self, callback: Callable[[], Any]) -> None:
        with self._lock:
            if self._callbacks is not None and callback in self._callbacks:
                self._callbacks.remove(callback)

    def cancel(self) -> bool:
        """Give the work up where that is possible (a `run` interrupts its turn); else only this reply is cancelled.

        Returns:
            False if it was answered already.
        """
        if self.done():
            return False
        if self._on_cancel is not None:
            self._on_cancel()
            return True
        self._seen = True  # whoever cancels it knows how it ended
        return self.fail(ReplyCancelled())

    def done(self) -> bool:
        """Whether `get()` and `await` answer at once."""
        if self._sources is not None:
            return self._done or all(isinstance(source, Reply) and source.done() for source in self._sources)
        return self._done or self._get_hook is not None

    def succeeded(self) -> bool:
        """Whether it was answered with a value; looks at an error without raising it."""
        self._seen = True
        return self._done and self._error is None and self._exc_info is None

    def error(self) -> BaseException | None:
        """The error it failed with, or None; counts as a look."""
        self._seen = True
        return self._error

    # --- waiting ---------------------------------------------------------------------------------------------------

    def get(self, *, timeout: float | None = None) -> T:
        """Block until it is answered.

        Args:
            timeout: Seconds; None is the reply's own default.

        Raises:
            ReplyTimeout: the deadline passed; the work goes on.
            DeadlockError: called in the OS thread of the loop that has to answer.
            UnsupportedOperation: called in a forked child process.
            Exception: what the work raised.
        """
        if not self._done:
            limit_s = self._timeout_s if timeout is None else timeout
            if self._sources is not None:
                self._derived(lambda: [source.get(timeout=timeout) for source in self._sources or ()])
            elif self._hook_lock is not None:
                return self._hooked(self._hook_lock, limit_s, timeout)
            else:
                self._block(limit_s)
        return self._result()

    def _hooked(self, lock: threading.Lock, limit_s: float | None, timeout: float | None) -> T:
        """The hook's value; it runs once, in the OS thread of the first waiter, and the others wait for it."""
        if not lock.acquire(timeout=-1 if limit_s is None else max(limit_s, 0)):
            raise ReplyTimeout(limit_s or 0.0)
        try:
            return super().get(timeout=timeout)
        finally:
            lock.release()

    def _block(self, limit_s: float | None) -> None:
        home = self._home
        if home is not None:
            home.check_process()
            if home.is_closed():
                self.fail(InternalAgentDied("its event loop was closed"))
            elif home.ident == threading.get_ident():
                raise DeadlockError("reply.get()")
        answered = threading.Event()
        self.when_done(answered.set)
        deadline_s = None if limit_s is None else time.monotonic() + limit_s
        lend = lend_place.get()
        with nullcontext() if lend is None else lend():
            while not self._done:
                left_s = LOOP_CHECK_S if deadline_s is None else min(LOOP_CHECK_S, deadline_s - time.monotonic())
                if left_s <= 0:
                    self._forget(answered.set)
                    raise ReplyTimeout(limit_s or 0.0)
                if not answered.wait(left_s) and home is not None and home.is_closed():
                    self.fail(InternalAgentDied("its event loop was closed"))

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            if self._sources is not None or self._get_hook is not None:
                yield from self._gather().__await__()
            else:
                yield from self._wait()
        return self._result()

    __iter__ = __await__

    def _wait(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        home, ident = self._home, threading.get_ident()
        if home is not None and loop is not home.loop:
            home.check_process()
            if home.ident == ident and not home.is_closed():
                raise DeadlockError("await from another event loop on the same OS thread")
        waiter = loop.create_future()

        def wake() -> None:
            if threading.get_ident() == ident:
                if not waiter.done():
                    waiter.set_result(None)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        limit_s = self._timeout_s
        is_home = home is not None and loop is home.loop
        deadlines = timer = watch = None
        expire = functools.partial(_expire, waiter, limit_s)
        if limit_s is not None and home is not None and is_home:
            deadlines = home.deadlines(limit_s)
            deadlines.set(expire)
        elif limit_s is not None:
            timer = loop.call_later(limit_s, expire)
        self.when_done(wake)
        if home is not None and not is_home:
            watch = _HomeWatch(self, home, loop)
        try:
            yield from waiter
        finally:
            if deadlines is not None:
                deadlines.discard(expire)
            if watch is not None:
                watch.timer.cancel()
            if timer is not None:
                timer.cancel()
            if not self._done:
                self._forget(wake)

    async def _gather(self) -> None:
        """Wait for what this reply is made of without blocking the loop."""
        if self._sources is None:
            await in_os_thread(functools.partial(self.get, timeout=self._timeout_s))
            return
        values = [
            await source if isinstance(source, Reply) else await in_os_thread(source.get) for source in self._sources
        ]
        self._derived(lambda: values)

    def _result(self) -> T:
        if self._get_hook is not None:
            return super().get(timeout=0)
        self._seen = True
        if self._error is not None:
            raise _fresh(self._error)
        if self._exc_info is not None:
            kind, error, traceback = self._exc_info
            raise (kind() if error is None else error).with_traceback(traceback)
        return self._value  # type: ignore[no-any-return]

    def __del__(self) -> None:
        if self._error is not None and not self._seen:
            logger.error("a reply failed and nobody looked: %s: %s", type(self._error).__name__, self._error)

    # --- pykka's combinators, which there block whoever awaits them ------------------------------------------------

    def _from(self, derive: Callable[..., Any], *others: pykka.Future[Any]) -> Any:
        reply: Reply[Any] = type(self)()
        reply._home, reply._timeout_s = self._home, self._timeout_s
        reply._sources, reply._derive = (self, *others), derive
        return reply

    def _derived(self, wait: Callable[[], list[Any]]) -> None:
        values = wait()
        if self._derive is not None and not self._done:
            try:
                self._settle(self._derive(*values), None, None)
            except Exception:
                self._settle(None, None, sys.exc_info())

    def map(self, func: Callable[[T], M]) -> Reply[M]:
        """A reply with `func(value)`; `func` runs where the new reply is first waited for (in each OS thread that waits for
        it at that time), and its value is kept."""
        return self._from(func)  # type: ignore[no-any-return]

    def filter(self, func: Callable[[Any], bool]) -> Reply[Any]:
        """A reply with the list of the value's items that pass."""
        return self._from(lambda value: list(filter(func, value)))  # type: ignore[no-any-return]

    def join(self, *futures: pykka.Future[Any]) -> Reply[Any]:
        """A reply with the list of this value and those of `futures`."""
        return self._from(lambda *values: list(values), *futures)  # type: ignore[no-any-return]

    def reduce(self, func: Callable[[Any, Any], Any], *args: Any) -> Reply[Any]:
        """A reply with the value's items folded from the left."""
        return self._from(lambda value: functools.reduce(func, value, *args))  # type: ignore[no-any-return]

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        """Compute the value by `func(timeout)` at the first wait (pykka's contract); `await` runs it in an OS thread."""
        with self._lock:
            if self._done:
                raise queue.Full
            self._hook_lock = threading.Lock()
            super().set_get_hook(func)


def answered(value: T) -> Reply[T]:
    """A reply that is answered already."""
    reply: Reply[T] = Reply()
    reply.answer(value)
    return reply


def failed(error: BaseException) -> Reply[Any]:
    """A reply that failed already."""
    reply: Reply[Any] = Reply()
    reply.fail(error)
    return reply


def without_frames(error: BaseException) -> BaseException:
    """The error, with no traceback on it or its causes: a held reply must not hold the actor it came from."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        item = stack.pop()
        if item is not None and id(item) not in seen:
            seen.add(id(item))
            item.__traceback__ = None
            stack += [item.__cause__, item.__context__]
            if isinstance(item, BaseExceptionGroup):
                stack += item.exceptions
    return error


def _fresh(error: BaseException) -> BaseException:
    """A copy to raise, so that the waiter's frames do not gather on the reply's own error."""
    try:
        clone = copy.copy(error)
    except Exception:
        return error.with_traceback(None)
    if type(clone) is not type(error) or clone.args != error.args:
        return error.with_traceback(None)
    clone.__cause__, clone.__suppress_context__ = error.__cause__, error.__suppress_context__
    return clone


class _HomeWatch:
    """Fails a reply whose loop was closed under it, for a waiter on another loop."""

    def __init__(self, reply: Reply[Any], home: Home, loop: asyncio.AbstractEventLoop) -> None:
        self.reply, self.home, self.loop = reply, home, loop
        self.timer: asyncio.Handle = loop.call_soon(self.look)

    def look(self) -> None:
        if self.home.is_closed():
            self.reply.fail(InternalAgentDied("its event loop was closed"))
        else:
            self.timer = self.loop.call_later(LOOP_CHECK_S, self.look)


def _expire(waiter: asyncio.Future[None], timeout_s: float | None) -> None:
    if not waiter.done():
        waiter.set_exception(ReplyTimeout(timeout_s or 0.0))


async def in_os_thread(call: Callable[[], Any]) -> Any:
    """Run a blocking call in a daemon OS thread of its own (an executor's would be joined at exit)."""
    reply: Reply[Any] = Reply()

    def work() -> None:
        try:
            reply.set(call())
        except BaseException:
            reply.set_exception()

    threading.Thread(target=work, name="codex_actors-wait", daemon=True).start()
    return await reply
