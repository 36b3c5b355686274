from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from codex_actors.runtime.clock import SimulatedClock
from codex_actors.runtime.deadlines import Deadlines
from codex_actors.testing import VirtualLoop


def on_virtual_loop(play: Callable[[Deadlines, VirtualLoop, list[tuple[str, float]]], None]) -> list[tuple[str, float]]:
    loop, told = VirtualLoop(SimulatedClock(1)), list[tuple[str, float]]()

    async def main() -> None:
        play(Deadlines(loop, 10.0, contextvars.copy_context()), loop, told)
        await asyncio.sleep(100)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return told


def test_each_deadline_is_called_at_its_own_time() -> None:
    def play(deadlines: Deadlines, loop: VirtualLoop, told: list[tuple[str, float]]) -> None:
        deadlines.set(lambda: told.append(("first", loop.time())))
        loop.call_later(4, lambda: deadlines.set(lambda: told.append(("second", loop.time()))))

    assert on_virtual_loop(play) == [("first", 10.0), ("second", 14.0)]


def test_discarded_deadline_is_not_called() -> None:
    def play(deadlines: Deadlines, loop: VirtualLoop, told: list[tuple[str, float]]) -> None:
        def met() -> None:
            told.append(("met", loop.time()))

        deadlines.set(met)
        loop.call_later(9, deadlines.discard, met)
        loop.call_later(9, lambda: deadlines.set(lambda: told.append(("later", loop.time()))))
        deadlines.discard(print)

    assert on_virtual_loop(play) == [("later", 19.0)]


def test_deadline_set_by_a_deadline_has_its_whole_time() -> None:
    def play(deadlines: Deadlines, loop: VirtualLoop, told: list[tuple[str, float]]) -> None:
        deadlines.set(lambda: deadlines.set(lambda: told.append(("again", loop.time()))))

    assert on_virtual_loop(play) == [("again", 20.0)]
