"""Read-only follow: the lines of a rollout as somebody else appends them, for one reader at its own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from codex_actors.actors.shared import Shared
from codex_actors.errors import InternalAgentDied
from codex_actors.protocol.history import RolloutItem
from codex_actors.rollout.tail import Tail
from codex_actors.runtime.reply import Reply

LOOK_S = 0.05
"""How often a reader that waits looks at the file."""


class RolloutStream:
    """The lines of a rollout, oldest first: `for`, `async for`, `next()`, `close()`, `with`.

    Nothing is read ahead, so nothing is missed by a slow reader. The iteration ends when the stream or the manager is closed;
    it raises `RolloutError` when the file is gone. Lines that its writer has written and not yet acknowledged are among
    them; after a failure or a take-over such a line may be missing from the file.
    """

    def __init__(self, shared: Shared, tail: Tail) -> None:
        self._shared = shared
        self._tail = tail
        self._lines: deque[RolloutItem] = deque()
        self._reading = asyncio.Lock()
        self._closed = False

    @property
    def path(self) -> Path:
        """The rollout that is followed."""
        return self._tail.path

    def next(self, timeout_s: float | None = None) -> Reply[RolloutItem | None]:
        """The next line; None at the end. A reply that is given up takes none.

        Fails with `ReplyTimeout` where none has come within `timeout_s`, `RolloutError` where the file is gone, and
        `InternalAgentDied` where the manager ends meanwhile.
        """
        self._shared.check_process()
        return self._shared.pump.run(self._come(), timeout_s).map(lambda _: self._take())

    def close(self) -> None:
        """Stop reading; a reader that waits gets the end."""
        self._closed = True

    def __enter__(self) -> RolloutStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[RolloutItem]:
        return self

    def __next__(self) -> RolloutItem:
        try:
            line = self.next().get()
        except InternalAgentDied:  # the manager has ended
            line = None
        if line is None:
            raise StopIteration
        return line

    def __aiter__(self) -> AsyncIterator[RolloutItem]:
        return self

    async def __anext__(self) -> RolloutItem:
        try:
            line = await self.next()
        except InternalAgentDied:
            line = None
        if line is None:
            raise StopAsyncIteration
        return line

    def _take(self) -> RolloutItem | None:
        return self._lines.popleft() if self._lines and not self._closed else None

    async def _come(self) -> None:
        """Wait until there is a line, or the end. Runs in: a task on the manager's loop."""
        async with self._reading:
            while not (self._lines or self._closed or self._shared.is_closing):
                self._lines += await self._shared.load(self._tail.read)
                if not self._lines:
                    await asyncio.sleep(LOOK_S)
