"""A blocked loop is named: an OS thread that samples the loop's when it has not come round for a while.

It works only while turns run: an idle manager costs nothing.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType

from codex_actors.runtime.pump import Pump

STACK_LINES = 12

LINGER_ROUNDS = 20
"""For so many rounds without a turn it stays awake."""


class Watchdog:
    """Calls `report(stack, frames)` on the loop after it was blocked for `limit_s`, once per block.

    `stack` is the text of the innermost frames, `frames` the names and locals that `mark` picked from them.
    """

    def __init__(
        self,
        pump: Pump,
        limit_s: float,
        mark: Callable[[FrameType], dict[str, str]],
        report: Callable[[str, dict[str, str]], None],
    ) -> None:
        self._pump = pump
        self._limit_s = limit_s
        self._mark = mark
        self._report = report
        self._watched = 0
        self._awake = threading.Event()
        self._came = threading.Event()
        self._stopped = threading.Event()
        self._started = False
        self._asleep = True

    def watch(self) -> None:
        """A turn begins. Runs in: the loop's OS thread."""
        self._watched += 1
        if self._asleep and self._limit_s > 0:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="codex_actors-watchdog", daemon=True).start()
            self._awake.set()

    def unwatch(self) -> None:
        """A turn ended. Runs in: the loop's OS thread."""
        self._watched -= 1

    def close(self) -> None:
        """End the OS thread."""
        self._stopped.set()
        self._awake.set()
        self._came.set()

    def _run(self) -> None:
        idle_rounds = 0
        while not self._over():
            if self._watched:
                idle_rounds = 0
                self._look()
            elif idle_rounds < LINGER_ROUNDS:
                # Turns come in bursts: falling asleep between two of them would cost each a wake-up.
                idle_rounds += 1
            else:
                self._awake.clear()
                self._asleep = True
                if not self._watched:  # else it began between the last look and this one
                    self._awake.wait()
                self._asleep = False
                continue
            self._stopped.wait(self._limit_s)

    def _look(self) -> None:
        self._came.clear()
        self._pump.post(self._came.set)
        if not self._came.wait(self._limit_s) and not self._over():
            self._sample()
            while not self._came.wait(1.0) and not self._over():
                pass

    def _over(self) -> bool:
        return self._stopped.is_set() or self._pump.is_closed()

    def _sample(self) -> None:
        frame = sys._current_frames().get(self._pump.ident)
        if frame is None:
            return
        stack = "".join(traceback.format_stack(frame)[-STACK_LINES:])
        marks: dict[str, str] = {}
        while frame is not None:
            for key, value in self._mark(frame).items():
                marks.setdefault(key, value)
            frame = frame.f_back
        self._pump.post(self._report, stack, marks)
