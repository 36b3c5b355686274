"""Blocking work in one OS thread: work waits in a deque of ours, one `Drain` at a time in the actor's inbox."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pykka

from codex_actors.runtime.pump import Pump

W = TypeVar("W")


ROUNDS = 3
"""Rounds of the loop between the first piece and the bell: a burst makes one batch, not one for each of its pieces (each
costs two changes of the OS thread)."""


RETRY_S = 0.1
"""After this long an OS thread that could not be started is tried again."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take all the work that waits."""


_STOP = object()


class _Worker(pykka.ThreadingActor):
    """A stock pykka actor, daemon: it must not hold the exit."""

    use_daemon_thread = True

    def __init__(self, drain: Callable[[], Any]) -> None:
        super().__init__()
        self._drain = drain

    def _start_actor_loop(self) -> None:
        # Its life is the manager's: `ActorRegistry.stop_all()` must not stop it before the threads that write.
        pykka.ActorRegistry.unregister(self.actor_ref)
        super()._start_actor_loop()

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Drain):
            self._drain()


class Doorbell(Generic[W]):
    """Hands batches of work to `handle` in an OS thread that is started by the first piece.

    What comes while a batch is handled makes the next batch (group commit). `handle` must not raise: that
    would end its OS thread, and lose the batch.
    """

    def __init__(self, pump: Pump, handle: Callable[[list[W]], None]) -> None:
        self._pump = pump
        self._handle = handle
        self._work: deque[W] = deque()
        self._rung = False
        self._ref: pykka.ActorRef[_Worker] | None = None
        # At the exit the loop and the draining OS thread may each have started a worker: one handles at a time, and who
        # drains has waited for the other. A lock that an actor never takes.
        self._handling = threading.Lock()

    @property
    def is_unused(self) -> bool:
        """Whether nothing was ever put in: there is no OS thread to wait for."""
        return self._ref is None and not self._work

    @property
    def is_at_rest(self) -> bool:
        """Whether its OS thread has ended, or none was needed."""
        return self._live() is None

    def put(self, work: W) -> None:
        """Add a piece. Runs in: one OS thread at a time (the loop's)."""
        self._work.append(work)
        if not self._rung:
            self._rung = True
            self._pump.loop.call_soon(self._ring, ROUNDS, context=self._pump.context)

    def _ring(self, rounds: int) -> None:
        if rounds:
            self._pump.loop.call_soon(self._ring, rounds - 1, context=self._pump.context)
            return
        if not self._work:  # a drain was faster, and may have ended the OS thread
            self._rung = False
            return
        ref = self._live()
        if ref is None:
            try:
                ref = self._start()
            except RuntimeError:  # there are too many, or the process ends: `drain` does not need one then
                self._pump.loop.call_later(RETRY_S, self._ring, 0, context=self._pump.context)
                return
        ref.tell(Drain())

    def _start(self) -> pykka.ActorRef[_Worker]:
        ref = self._ref = _Worker.start(self._drain)
        return ref

    def _live(self) -> pykka.ActorRef[_Worker] | None:
        return self._ref if self._ref is not None and self._ref.is_alive() else None

    def _drain(self, timeout_s: float = -1) -> bool:
        if not self._handling.acquire(timeout=timeout_s):
            return False
        try:
            # Lowered before the deque is read: a piece that comes now either is read below or rings again.
            self._rung = False
            batch: list[W] = []
            while self._work:
                batch.append(self._work.popleft())
            if batch:
                self._handle(batch)
        finally:
            self._handling.release()
        return True

    def close(self, timeout_s: float) -> bool:
        """Handle all that waits and end the OS thread; False if that took longer. Runs in: not the loop's OS thread."""
        return self.drain(timeout_s) and self._end(timeout_s)

    def _end(self, timeout_s: float) -> bool:
        ref = self._live()
        return ref is None or self._ask(ref, _STOP, timeout_s)

    def drain(self, timeout_s: float) -> bool:
        """Handle all that waits now; False if that took longer. Runs in: not the loop's OS thread (or at exit)."""
        ref = self._live()
        if ref is None and self._work:
            try:
                ref = self._start()
            except RuntimeError:  # Python 3.12 starts no OS thread any more while the process ends
                return self._drain(timeout_s)
        return ref is None or self._ask(ref, Drain(), timeout_s)

    def _ask(self, ref: pykka.ActorRef[_Worker], message: Any, timeout_s: float) -> bool:
        try:
            if message is _STOP:
                ref.stop(timeout=timeout_s)
            else:
                ref.ask(message, timeout=timeout_s)
        except (pykka.Timeout, pykka.ActorDeadError):
            return False
        return True
