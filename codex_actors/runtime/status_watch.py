"""`StatusWatch`: the latest status of a thread, with a version and notification of changes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from codex_actors.errors import InternalAgentDied
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.runtime.pump import Pump, pass_on
from codex_actors.runtime.reply import Reply


class StatusCell:
    """A thread's status, written by its actor."""

    __slots__ = ("ended", "status", "version", "waiters")

    def __init__(self) -> None:
        self.status = AgentStatus.PENDING_INIT
        self.version = 0
        self.ended: Ended | None = None
        self.waiters: list[Callable[[], bool]] | None = None

    def set(self, status: AgentStatus) -> None:
        """A new status. Runs in: the loop's OS thread."""
        self.status = status
        self.version += 1
        self._notify()

    def end(self, ended: Ended) -> None:
        """The thread has ended. Runs in: the loop's OS thread."""
        self.ended = ended
        self._notify()

    def _notify(self) -> None:
        if self.waiters:
            self.waiters = [waiter for waiter in self.waiters if not waiter()]

    def wait(self, waiter: Callable[[], bool]) -> None:
        """Call `waiter()` now and at each change until it returns True. Runs in: the loop's OS thread."""
        if not waiter():
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)


class _Watching(Reply[Any]):
    """A reply that holds its thread until it is answered, and that only its waiters hold."""

    def __init__(self, pump: Pump, timeout_s: float, keep: Any) -> None:
        super().__init__(None, timeout_s)
        self._home = pump
        self.keep = keep
        pump.watching.add(self)


def _look(
    loop: asyncio.AbstractEventLoop,
    look: Callable[[StatusCell, _Watching], None],
    cell: StatusCell,
    weak: weakref.ref[_Watching],
) -> bool:
    """Whether the reply needs no further look. Runs in: the loop's OS thread."""
    reply = weak()
    if reply is None:
        return True
    try:
        look(cell, reply)
    except KeyboardInterrupt as error:
        reply.fail(InternalAgentDied("interrupted by the keyboard"))
        pass_on(loop, error)
    except BaseException as error:  # out of a host's predicate: `sys.exit()` in it must not end the loop
        reply.fail(error)
    if reply.done():
        reply.keep = None
    return reply.done()


class StatusWatch:
    """The latest status of a thread. Fast changes in between may be skipped: `version` counts them.

    Holding a watch keeps its thread alive.
    """

    def __init__(self, pump: Pump, cell: StatusCell, keep: Any, timeout_s: float) -> None:
        self._pump = pump
        self._cell = cell
        self._keep = keep
        self._timeout_s = timeout_s

    @property
    def status(self) -> AgentStatus:
        """The latest status."""
        return self._cell.status

    @property
    def version(self) -> int:
        """How often the status was set; 0 at birth."""
        return self._cell.version

    def changed(self, since: int | None = None) -> Reply[AgentStatus]:
        """The latest status as soon as its version is above `since` (default: the version now)."""
        seen = self.version if since is None else since
        return self._when(lambda cell: cell.version > seen)

    def until(self, predicate: Callable[[AgentStatus], bool]) -> Reply[AgentStatus]:
        """The status as soon as `predicate(status)` holds, tested now and at each change.

        Runs in: `predicate` on the manager's loop.
        """
        return self._when(lambda cell: predicate(cell.status))

    def _when(self, holds: Callable[[StatusCell], bool]) -> Reply[AgentStatus]:
        def look(cell: StatusCell, reply: _Watching) -> None:
            if holds(cell):
                reply.answer(cell.status)
            elif cell.ended is not None:
                reply.fail(InternalAgentDied("the thread has ended"))

        reply: Reply[AgentStatus] = self._wait(look, self._keep)
        return reply

    def ended(self) -> Reply[Ended]:
        """How the thread ended, once it has; also for those who ask late."""

        def look(cell: StatusCell, reply: _Watching) -> None:
            if cell.ended is not None:
                reply.answer(cell.ended)

        reply: Reply[Ended] = self._wait(look, None)
        return reply

    def _wait(self, look: Callable[[StatusCell, _Watching], None], keep: Any) -> Any:
        """A reply that `look` answers. The cell knows it weakly: one that nobody waits for must not hold its thread."""
        self._pump.check_process()
        reply = _Watching(self._pump, self._timeout_s, keep)
        loop, cell, weak = self._pump.loop, self._cell, weakref.ref(reply)
        # `reply` is held by the post until it is first looked at.
        self._pump.post(lambda held: cell.wait(partial(_look, loop, look, cell, weak)), reply)
        return reply
