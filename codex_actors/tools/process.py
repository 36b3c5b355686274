"""A child process with all that it starts: a process group of its own, read as it writes, and ended as a whole.

No process of the group outlives `Child.close`, not even one that ignores SIGTERM; one that made a session of its own does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import weakref
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Stream: TypeAlias = Literal["stdout", "stderr"]
Sink: TypeAlias = Callable[[Stream, bytes], Awaitable[None]]
"""Is given what the child wrote; the child waits while it does."""

GRACE_S = 2.0
"""From SIGTERM to SIGKILL."""

DRAIN_S = 2.0
"""How long an output that others hold open is read on after the child has ended. Source: `IO_DRAIN_TIMEOUT_MS`."""

KILL_S = 2.0
"""How long a killed child is waited for: the kernel may hold it."""

_LOOK_S = 0.01
_READ_BYTES = 1 << 16
_REST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended. `returncode` is `subprocess`'s: minus the number of the signal that killed it.

    Attributes:
        timed_out: It was ended at its limit.
        left_some: Something that it had started held its output open, and was killed.
    """

    returncode: int
    duration_s: float
    timed_out: bool
    left_some: bool


class Child:
    """A running child. Made by `start`; whoever has it calls `close`, whatever happens."""

    def __init__(self, process: Process, outputs: Mapping[Stream, int]) -> None:
        self.process = process
        self._outputs = outputs
        self._exit = asyncio.create_task(process.wait())
        # Also when the loop has died, and at the end of the process: then nobody else ends the group.
        self._leave = weakref.finalize(self, _leave, os.getpid(), process, tuple(outputs.values()))

    @classmethod
    async def start(cls, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Child:
        """Start `argv` without input. A cancellation takes effect when there is no child, or one that can be ended.

        Raises:
            OSError: it could not be started.
        """
        # Pipes of our own: with asyncio's, some versions take a child for alive until its grandchildren close them.
        fds: list[int] = []
        try:
            fds += os.pipe()
            fds += os.pipe()
            out, out_end, err, err_end = fds
            made = asyncio.create_subprocess_exec(
                *argv, cwd=str(cwd), env=env, stdin=DEVNULL, stdout=out_end, stderr=err_end, start_new_session=True
            )
            process, was_cancelled = await _through_cancellation(made)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        os.close(out_end)
        os.close(err_end)
        for fd in (out, err):
            os.set_blocking(fd, False)
        child = cls(process, {"stdout": out, "stderr": err})
        if was_cancelled:
            await child.end()
            raise asyncio.CancelledError
        return child

    async def run(self, limit_s: float, sink: Sink) -> Ending:
        """Read until the child has ended, or is ended at the limit. Cancelled, it ends the child, and then itself."""
        began_s = time.monotonic()
        pumps = {asyncio.create_task(self._pump(stream, sink)) for stream in self._outputs}
        try:
            timed_out = not await self._ended(pumps, limit_s)
            if timed_out:
                await self._stop(pumps)
            _, reading = await asyncio.wait(pumps, timeout=DRAIN_S)
            await _cancel(pumps)
            self._signal(signal.SIGKILL)
            for stream in self._outputs:
                await self._rest(stream, sink)
        except BaseException:
            try:
                await _cancel(pumps)
            finally:
                await self.end()
            raise
        self.close()
        returncode = self.process.returncode
        return Ending(
            returncode=-signal.SIGKILL if returncode is None else returncode,
            duration_s=time.monotonic() - began_s,
            timed_out=timed_out,
            left_some=bool(reading),
        )

    async def end(self) -> None:
        """SIGTERM, a grace, SIGKILL for all of the group. A cancellation cuts the grace."""
        if not self._leave.alive:
            return
        # Read on, for nobody: who cleans up may have something to say first.
        pumps = {asyncio.create_task(self._pump(stream, _ignore)) for stream in self._outputs}
        try:
            await self._stop(pumps)
        finally:
            try:
                await _cancel(pumps)
            finally:
                self.close()

    def close(self) -> None:
        """Kill what is left of the group, and let go of its output."""
        self._leave()
        if self.process.returncode is None:
            self._exit.cancel()

    async def _ended(self, pumps: set[asyncio.Task[None]], limit_s: float) -> bool:
        """Whether the child ended in time. Raises what a pump raises."""
        until_s = time.monotonic() + limit_s
        waiting: set[asyncio.Task[None] | asyncio.Task[int]] = {self._exit, *pumps}
        while not self._exit.done():
            done, waiting = await asyncio.wait(
                waiting, timeout=max(until_s - time.monotonic(), 0), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            if not done:
                return False
        return True

    async def _stop(self, pumps: set[asyncio.Task[None]]) -> None:
        self._signal(signal.SIGTERM)
        until_s = time.monotonic() + GRACE_S
        try:
            # Without the second half, dead processes that nobody collects would count, as they do in many containers.
            while self._signal(0) and not (self._exit.done() and all(pump.done() for pump in pumps)):
                if time.monotonic() > until_s:
                    break
                await asyncio.sleep(_LOOK_S)
        finally:
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._exit}, timeout=KILL_S)

    def _signal(self, number: int) -> bool:
        return _signal_group(self.process, number)

    async def _pump(self, stream: Stream, sink: Sink) -> None:
        fd = self._outputs[stream]
        while True:
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                await _readable(fd)
                continue
            if not data:
                return
            await sink(stream, data)
            await asyncio.sleep(0)  # a child that writes without end must not have the loop for itself

    async def _rest(self, stream: Stream, sink: Sink) -> None:
        """What is in the pipe: a pump whose sink was slow may not have come to it."""
        left_bytes = _REST_BYTES
        with suppress(BlockingIOError):
            while left_bytes > 0 and (data := os.read(self._outputs[stream], _READ_BYTES)):
                left_bytes -= len(data)
                await sink(stream, data)


async def _ignore(stream: Stream, data: bytes) -> None:
    """A sink for what nobody wants to know."""


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _set, ready)
    try:
        await ready
    finally:
        if not loop.is_closed():
            loop.remove_reader(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _through_cancellation(made: Awaitable[Process]) -> tuple[Process, bool]:
    """The process, and whether its maker was cancelled: half a start would leave a child that nobody knows."""
    task = asyncio.ensure_future(made)
    was_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            was_cancelled = True
    return task.result(), was_cancelled


def _leave(owner_pid: int, process: Process, fds: Sequence[int]) -> None:
    if os.getpid() == owner_pid:  # not in a fork
        _signal_group(process, signal.SIGKILL)
    for fd in fds:
        os.close(fd)


def _signal_group(process: Process, number: int) -> bool:
    """Whether there is a group to signal."""
    if process.returncode is not None and _exists(process.pid):
        return False  # the id was given to another process: so none of the group is left, which would hold it
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, as sudo's: it cannot be ended from here
        return True
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
