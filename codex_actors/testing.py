"""What hosts need to test their own orchestration, and what our tests use: `probe`, `gate`, `no_leaks`, a virtual loop.

`ThreadManager.for_testing` makes the manager; `ScriptedModel` is the model.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pykka

from codex_actors.actors.opened import open_in_os_thread
from codex_actors.actors.supervisor import SupervisorActor
from codex_actors.actors.thread import ThreadActor
from codex_actors.errors import ReplyTimeout
from codex_actors.model.scripted import Gate
from codex_actors.runtime.actor import LoopActor
from codex_actors.runtime.clock import Clock, SimulatedClock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply

__all__ = ["Gate", "Probe", "VirtualLoop", "gate", "no_leaks", "probe", "pykka_classes"]


class Probe(pykka.ThreadingActor):
    """A stock pykka actor that records what it is told."""

    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def on_receive(self, message: Any) -> Any:
        """Record the message. Runs in: the probe's OS thread."""
        self._told.put(message)


class ProbeRef:
    """A probe from outside: `ref` is what to hand to the runtime."""

    def __init__(self) -> None:
        self.ref: pykka.ActorRef[Probe] = Probe.start()
        actor = self.ref._actor_weakref()
        assert actor is not None
        self._told = actor._told

    def next(self, timeout_s: float = 10.0) -> Any:
        """The oldest message that was not read yet.

        Raises:
            ReplyTimeout: none came in time.
        """
        try:
            return self._told.get(timeout=timeout_s)
        except queue.Empty:
            raise ReplyTimeout(timeout_s) from None

    def until(self, kind: type, timeout_s: float = 10.0) -> list[Any]:
        """The messages up to the first one of this class, which is the last of the list."""
        messages: list[Any] = []
        while not messages or not isinstance(messages[-1], kind):
            messages.append(self.next(timeout_s))
        return messages


@contextmanager
def probe() -> Iterator[ProbeRef]:
    """A probe for the length of the `with`."""
    watched = ProbeRef()
    try:
        yield watched
    finally:
        watched.ref.stop()


def gate(after: str = "start") -> Gate:
    """A gate to give to a `ScriptedModel(gate=...)`: its streams wait there until it is opened."""
    return Gate(after)  # type: ignore[arg-type]


def _live_actors() -> int:
    """Actors of ours that have not ended."""
    return sum(
        isinstance(item, ThreadActor | SupervisorActor) and not item.actor_stopped.is_set() for item in gc.get_objects()
    )


def _descriptors() -> set[str]:
    try:
        return set(os.listdir("/proc/self/fd"))
    except OSError:  # no /proc on this system
        return set()


def _tasks() -> set[asyncio.Task[Any]]:
    try:
        return asyncio.all_tasks()
    except RuntimeError:  # no loop runs here
        return set()


def _leaks(before: tuple[set[int | None], int, int, set[asyncio.Task[Any]]]) -> list[str]:
    threads, descriptors, actors, tasks = before
    found = [
        f"OS thread {thread.name}"
        for thread in threading.enumerate()
        if thread.ident not in threads and thread.is_alive()
    ]
    extra = len(_descriptors()) - descriptors
    if extra > 0:
        found.append(f"{extra} file descriptors")
    gc.collect()
    more = _live_actors() - actors
    if more > 0:
        found.append(f"{more} live actors")
    return found + [f"task {task.get_name()}" for task in _tasks() - tasks]


@contextmanager
def no_leaks(timeout_s: float = 10.0) -> Iterator[None]:
    """Check that OS threads, tasks, file descriptors and live actors are back to their start when the `with` ends.

    What is just ending is given `timeout_s`.

    Raises:
        AssertionError: something is left; the text names it.
    """
    before = ({thread.ident for thread in threading.enumerate()}, len(_descriptors()), _live_actors(), _tasks())
    yield
    until_s = time.monotonic() + timeout_s
    while leaks := _leaks(before):
        if time.monotonic() > until_s:
            raise AssertionError(f"left behind: {', '.join(leaks)}")
        threading.Event().wait(0.01)


def pykka_classes() -> tuple[type[LoopActor], type[Reply[Any]]]:
    """An actor class and a future class bound to a loop of their own, in a daemon OS thread.

    For hosts that want plain pykka actors on a loop, and for pykka's own test suite. As pykka's, such an actor lives until
    it is stopped.
    """
    pump, _ = open_in_os_thread(lambda loop: Pump(loop, Clock()))
    live: set[LoopActor] = set()
    the_pump: Pump = pump

    class HostedActor(LoopActor):
        pump = the_pump

        def _start_actor_loop(self) -> None:
            live.add(self)
            super()._start_actor_loop()

        def on_end(self) -> None:
            live.discard(self)

    class HostedReply(Reply[Any]):
        pass

    return HostedActor, HostedReply


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer as soon as nothing else is to do; it moves `clock` along.

    With a `SimulatedClock` of the same seed, and no other OS thread at work, a program runs the same way twice.
    """

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__(_JumpingSelector(self))
        self._clock = clock
        self._virtual_s = 0.0

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

    def jump(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._virtual_s += seconds
        self._clock.advance(seconds)


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        self._loop.jump(timeout)
        return ready
