"""Many deadlines with one timer of the loop: most are met, and a timer of its own would be most of a wait's price."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any


class Deadlines:
    """Deadlines that all lie `limit_s` ahead when they are set, so that the oldest is due first.

    Runs in: the loop's OS thread, all of it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float, context: contextvars.Context) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._context = context
        self._due_s: dict[Callable[[], Any], float] = {}
        self._is_armed = False

    def set(self, call: Callable[[], Any]) -> None:
        """Call `call()` in `limit_s`, unless it is discarded before."""
        due_s = self._due_s[call] = self._loop.time() + self._limit_s
        if not self._is_armed:
            self._arm(due_s)

    def discard(self, call: Callable[[], Any]) -> None:
        """Forget `call`; one that was called, or is not known, is ignored."""
        self._due_s.pop(call, None)

    def _arm(self, due_s: float) -> None:
        self._is_armed = True
        self._loop.call_at(due_s, self._ring, context=self._context)

    def _ring(self) -> None:
        self._is_armed = False
        now_s = self._loop.time()
        while self._due_s:
            call, due_s = next(iter(self._due_s.items()))
            if due_s > now_s:
                self._arm(due_s)
                return
            del self._due_s[call]
            call()
