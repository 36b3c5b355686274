from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from codex_actors.runtime.clock import Clock
from codex_actors.runtime.doorbell import ROUNDS, Doorbell
from codex_actors.runtime.pump import Pump
from codex_actors.testing import no_leaks


class Desk:
    """Notes batches; its first one waits at the gate."""

    def __init__(self, *, is_held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.names: set[str] = set()
        self.reached = threading.Event()
        self.gate = threading.Event()
        if not is_held:
            self.gate.set()

    def handle(self, batch: list[int]) -> None:
        self.names.add(threading.current_thread().name)
        self.batches.append(batch)
        self.reached.set()
        assert self.gate.wait(10)

    @property
    def work(self) -> list[int]:
        return [piece for batch in self.batches for piece in batch]


def on_a_loop(test: Callable[[Doorbell[int], Desk], Any], *, is_held: bool = False) -> None:
    async def main() -> None:
        desk = Desk(is_held=is_held)
        bell = Doorbell(Pump(asyncio.get_running_loop(), Clock()), desk.handle)
        await asyncio.wait_for(test(bell, desk), 20)

    with no_leaks():
        asyncio.run(main())


def test_an_unused_bell_starts_no_os_thread() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        before = threading.active_count()
        assert bell.is_unused
        assert bell.drain(10)
        assert bell.close(10)
        assert threading.active_count() == before
        assert desk.batches == []

    on_a_loop(main)


def test_a_burst_makes_one_batch() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        for number in range(100):
            bell.put(number)
        assert not bell.is_unused
        assert await asyncio.to_thread(desk.reached.wait, 10)
        assert await asyncio.to_thread(bell.close, 10)
        assert desk.batches == [list(range(100))]

    on_a_loop(main)


def test_what_comes_meanwhile_makes_the_next_batch() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        bell.put(0)
        assert await asyncio.to_thread(desk.reached.wait, 10)
        for number in range(1, 50):
            bell.put(number)
            await asyncio.sleep(0)
        desk.gate.set()
        assert await asyncio.to_thread(bell.close, 10)
        assert desk.batches == [[0], list(range(1, 50))]

    on_a_loop(main, is_held=True)


def test_no_piece_is_lost_or_reordered() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        for number in range(2_000):
            bell.put(number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        assert await asyncio.to_thread(bell.drain, 10)
        assert desk.work == list(range(2_000))
        assert len(desk.names) == 1
        assert await asyncio.to_thread(bell.close, 10)

    on_a_loop(main)


def test_a_close_handles_what_was_not_rung_for() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        bell.put(1)
        bell.put(2)
        assert bell.close(10)
        assert desk.work == [1, 2]

    on_a_loop(main)


def test_a_stuck_handler_is_reported_not_waited_for() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        bell.put(1)
        assert await asyncio.to_thread(desk.reached.wait, 10)
        bell.put(2)
        assert bell.close(0.01) is False
        assert not bell.is_at_rest
        desk.gate.set()
        assert bell.drain(10)
        assert desk.work == [1, 2]
        assert bell.close(10)
        assert bell.is_at_rest

    on_a_loop(main, is_held=True)


def start_none(_os_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_drain_without_an_os_thread_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        bell.put(1)
        monkeypatch.setattr(threading.Thread, "start", start_none)
        assert bell.drain(10)
        assert desk.names == {threading.current_thread().name}
        assert desk.work == [1]
        assert pykka.ActorRegistry.get_all() == []

    on_a_loop(main)


def test_an_os_thread_that_did_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start_none)
            bell.put(1)
            for _ in range(ROUNDS + 2):
                await asyncio.sleep(0)
        assert desk.work == []
        assert await asyncio.to_thread(desk.reached.wait, 10)
        assert await asyncio.to_thread(bell.close, 10)
        assert desk.work == [1]

    on_a_loop(main)


def test_the_registry_does_not_know_the_worker() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        bell.put(1)
        assert await asyncio.to_thread(desk.reached.wait, 10)
        assert pykka.ActorRegistry.get_all() == []
        assert bell.close(10)

    on_a_loop(main)


def test_a_worker_that_ended_is_replaced() -> None:
    async def main(bell: Doorbell[int], desk: Desk) -> None:
        for number in range(3):
            bell.put(number)
            assert await asyncio.to_thread(desk.reached.wait, 10)
            desk.reached.clear()
            assert bell._ref is not None
            await asyncio.to_thread(bell._ref.stop)
        assert await asyncio.to_thread(bell.close, 10)
        assert desk.work == [0, 1, 2]

    on_a_loop(main)


def test_a_drain_waits_for_the_batch_of_another_worker() -> None:
    async def main() -> None:
        begun, go_on, handled = threading.Event(), threading.Event(), list[list[int]]()

        def handle(batch: list[int]) -> None:
            begun.set()
            assert go_on.wait(10)
            handled.append(batch)

        bell: Doorbell[int] = Doorbell(Pump(asyncio.get_running_loop(), Clock()), handle)
        bell.put(1)
        other = threading.Thread(target=bell._drain)  # as a worker that was started at the same moment
        other.start()
        assert await asyncio.to_thread(begun.wait, 10)
        bell.put(2)
        draining = asyncio.create_task(asyncio.to_thread(bell.drain, 10.0))
        await asyncio.sleep(0)
        assert handled == []
        go_on.set()
        assert await draining
        assert handled == [[1], [2]]
        await asyncio.to_thread(bell.close, 10.0)
        await asyncio.to_thread(other.join, 10)

    asyncio.run(main())
