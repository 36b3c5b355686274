"""The process of an MCP server as the runtime sees it: how it ended, what it said last, and its end with all it started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

logger = logging.getLogger("codex_actors")

EXIT_S = 1.0
"""How long to wait for the exit code of a process that has closed its output."""

TAIL_LINES = 10
"""Lines of stderr that are kept."""

LINE_CHARS = 300
"""What is kept of each."""

_GRACE_S = 0.5
_LOOK_S = 0.01
_ENDLESS_BYTES = 1 << 16
_SECRET_CHARS = 6


class Children:
    """The live processes of one `ChildLoop`. `kill()` is for an exit that closed nothing: it waits for nobody."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self._owner = os.getpid()

    def kill(self) -> None:
        """Kill each with all that it started. Runs in: any OS thread; in a forked process it does nothing."""
        if os.getpid() == self._owner:
            for pid in tuple(self.pids):
                _signal(pid, signal.SIGKILL)


class ChildLoop(asyncio.SelectorEventLoop):
    """A loop that knows the process it started last: the client of the MCP library starts one, and tells nobody its id."""

    child: asyncio.SubprocessTransport | None = None

    def __init__(self, children: Children) -> None:
        super().__init__()
        self._children = children

    async def subprocess_exec(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """As the base; the process leads a group of its own if `start_new_session` is given."""
        made = await super().subprocess_exec(protocol_factory, *args, **kwargs)
        self.child = made[0]
        self._children.pids.add(self.child.get_pid())
        return made

    def forget(self, pid: int) -> None:
        """The process has been ended."""
        self._children.pids.discard(pid)


class Tail(asyncio.Protocol):
    """The last lines of a process's stderr, each also a debug line in the log. The values of `env` are left out of both."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        self._name = name
        parts = {part for value in env.values() for part in (value, *value.splitlines())}
        self._secrets = sorted((part for part in parts if len(part) >= _SECRET_CHARS), key=len, reverse=True)
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._ended = asyncio.Event()

    async def open(self, loop: asyncio.AbstractEventLoop) -> tuple[asyncio.ReadTransport, TextIO]:
        """What ends it, and the file that the process is to write to; the caller closes both."""
        source, sink = os.pipe()
        transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(source, "rb", 0))
        return transport, os.fdopen(sink, "w")

    def data_received(self, data: bytes) -> None:
        """Take the lines that are whole. Runs in: the loop."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _ENDLESS_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._take(line)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the rest. Runs in: the loop."""
        self._take(self._rest)
        self._rest = b""
        self._ended.set()

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if text:
            text = text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}…"
            self._lines.append(text)
            logger.debug("the MCP server %r says: %s", self._name, text)

    async def words(self) -> str:
        """`; it said last: …`, or nothing. Waits a little for what a process that has just ended wrote."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._ended.wait()
        return "; it said last:\n" + "\n".join(self._lines) if self._lines else ""


async def exit_words(child: asyncio.SubprocessTransport) -> str:
    """How the process ended, as a verb with its object: `exited with code 3`."""
    # No `wait()`: it also waits until nobody has the process's pipes any more.
    for _ in range(round(EXIT_S / _LOOK_S)):
        code = child.get_returncode()
        if code is not None:
            break
        await asyncio.sleep(_LOOK_S)
    else:
        return "closed its output"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


async def end_group(pid: int) -> None:
    """End what is left of the process group that `pid` leads or led: SIGTERM, and after a grace SIGKILL."""
    loop = asyncio.get_running_loop()
    for sent in (signal.SIGTERM, signal.SIGKILL):
        is_left = _signal(pid, sent)
        until_s = loop.time() + _GRACE_S
        while is_left and loop.time() < until_s:
            await asyncio.sleep(_LOOK_S)
            is_left = _signal(pid, 0)
        if not is_left:
            return


def _signal(pid: int, number: int) -> bool:
    """Whether any of the group is left. What may not be signalled may be a zombie, or not: it counts as left."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
