"""The rollouts that the writer owes lines: it tries again by itself, less and less often, until it has written them.

Runs in: the loop's OS thread, all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from pathlib import Path

from codex_actors.errors import RolloutError, RolloutUnavailable, WriterConflict
from codex_actors.runtime.pump import Pump

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0

Kept = Callable[["int", "RolloutError | None"], None]
"""Told of an append: its number, and the error if it could not be written. Runs in: the loop's OS thread."""


class Unwritten:
    """Which rollouts lack lines, why, and who waits for them. A path's `retry` is called until it is settled."""

    def __init__(self, pump: Pump, retry: Callable[[Path, int, Kept], None]) -> None:
        self._pump = pump
        self._retry = retry
        self._owed: dict[Path, tuple[int, Kept]] = {}
        self._delay_s = FIRST_RETRY_S
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.reasons: dict[Path, str] = {}

    def take(self, path: Path, number: int, kept: Kept, error: RolloutError | None) -> tuple[int, Kept] | None:
        """The writer has dealt with append `number` of `path`; what failed before and is settled by it.

        That may be a newer append: an attempt which was on its way before that failed has written all the same.
        """
        if error is None:
            self.reasons.pop(path, None)
            settled = self._owed.pop(path, None)
            if not self._owed:
                self._rest()
            return settled
        self.reasons[path] = error.reason
        if isinstance(error, WriterConflict):  # its lines wait no more
            self._owed.pop(path, None)
        if isinstance(error, RolloutUnavailable):
            if path not in self._owed:
                self._delay_s = FIRST_RETRY_S
            # The answer to an older attempt may come behind that to a newer append, whose number the next one settles.
            if path not in self._owed or number >= self._owed[path][0]:
                self._owed[path] = number, kept
            self._arm()
        return None

    def let_go(self, path: Path) -> None:
        """Nobody waits any more; the lines are written all the same."""
        if path in self._owed:
            self._owed[path] = 0, unheard

    def report(self, waiting: Container[Path]) -> tuple[tuple[Path, str], ...]:
        """The rollouts that lack lines, and why, where the closed writer still has what is in `waiting`."""
        return tuple((path, why) for path, why in self.reasons.items() if path in waiting or path not in self._owed)

    def close(self) -> None:
        """Nothing is tried again; the writer does so once, when it is closed."""
        self._is_closed = True
        self._rest()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = self._pump.loop.call_later(self._delay_s, self._ring, context=self._pump.context)

    def _ring(self) -> None:
        # Armed again by the results, if they are no better: never two attempts at once for one path.
        self._timer = None
        self._delay_s = min(2 * self._delay_s, LAST_RETRY_S)
        for path, (number, kept) in list(self._owed.items()):
            self._retry(path, number, kept)


def unheard(_number: int, _error: RolloutError | None) -> None:
    """Nobody waits for it."""
