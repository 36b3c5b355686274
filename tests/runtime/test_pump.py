from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from codex_actors.errors import InternalAgentDied
from codex_actors.runtime.clock import Clock, SimulatedClock
from codex_actors.runtime.pump import DEAD_LETTERS, Pump
from codex_actors.runtime.reply import Reply

WORD: contextvars.ContextVar[str] = contextvars.ContextVar("WORD", default="")


class Served:
    def __init__(self, serve: Callable[[], bool]) -> None:
        self.serve = serve


def saying(order: list[Any], word: Any, times: int = 1) -> Served:
    left = [times]

    def serve() -> bool:
        order.append(word)
        left[0] -= 1
        return left[0] > 0

    return Served(serve)


class RushedClock(Clock):
    """One on which each look takes more than a slice."""

    passed = 0.0

    def passed_s(self) -> float:
        self.passed += 1.0
        return self.passed


def on_a_loop(test: Callable[[Pump], Any], clock: Clock | None = None) -> None:
    async def main() -> None:
        await test(Pump(asyncio.get_running_loop(), clock or Clock()))

    asyncio.run(main())


def test_posts_of_each_os_thread_keep_their_order() -> None:
    async def main(pump: Pump) -> None:
        posted: list[tuple[int, int]] = []
        finished = asyncio.Event()

        def note(who: int, number: int) -> None:
            assert pump.on_loop()
            posted.append((who, number))
            if len(posted) == 2_000:
                finished.set()

        def work(who: int) -> None:
            for number in range(500):
                pump.post(note, who, number)

        os_threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for os_thread in os_threads:
            os_thread.start()
        await asyncio.wait_for(finished.wait(), 10)
        for who in range(4):
            assert [number for poster, number in posted if poster == who] == list(range(500))

    on_a_loop(main)


def test_a_burst_of_posts_rings_the_loop_once() -> None:
    class CountingLoop(asyncio.SelectorEventLoop):
        rings = 0

        def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            self.rings += 1
            return super().call_soon_threadsafe(*args, **options)

    loop = CountingLoop()
    pump, done = Pump(loop, Clock()), list[int]()
    for number in range(100):
        pump.post(done.append, number)
    assert loop.rings == 1
    loop.run_until_complete(asyncio.sleep(0))
    assert done == list(range(100))
    pump.post(done.append, 100)
    assert loop.rings == 2
    loop.close()


def test_a_post_that_raises_does_not_lose_the_others() -> None:
    async def main(pump: Pump) -> None:
        errors: list[Any] = []
        pump.loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        done = asyncio.Event()
        pump.post(lambda: 1 // 0)
        pump.post(done.set)
        await asyncio.wait_for(done.wait(), 10)
        assert [type(error) for error in errors] == [ZeroDivisionError]

    on_a_loop(main)


def test_a_post_to_a_closed_loop_fails_what_waits() -> None:
    loop = asyncio.new_event_loop()
    pump = Pump(loop, Clock())
    waiting: Reply[int] = Reply(pump)
    loop.close()
    assert pump.is_closed()
    pump.post(print, "never")
    with pytest.raises(InternalAgentDied, match="event loop was closed"):
        waiting.get()
    assert pump.pending == set()


def test_a_call_answers_with_value_or_error() -> None:
    async def main(pump: Pump) -> None:
        assert await pump.call(lambda: 7, 10) == 7
        with pytest.raises(ZeroDivisionError):
            await pump.call(lambda: 1 // 0, 10)

    on_a_loop(main)


def test_a_coroutine_answers_with_value_or_error() -> None:
    async def main(pump: Pump) -> None:
        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        async def fail() -> None:
            raise LookupError("nothing here")

        async def give_up() -> None:
            raise asyncio.CancelledError

        assert await pump.run(double(4), 10) == 8
        with pytest.raises(LookupError, match="nothing here"):
            await pump.run(fail(), 10)
        with pytest.raises(InternalAgentDied, match="its event loop ended"):
            await pump.run(give_up(), 10)

    on_a_loop(main)


def test_actors_are_served_in_turn() -> None:
    async def main(pump: Pump) -> None:
        order: list[str] = []
        for word in "abc":
            pump.schedule(saying(order, word, times=3))
        await asyncio.sleep(0)
        assert "".join(order) == "abcabcabc"

    on_a_loop(main)


def test_a_seed_decides_who_is_served_next() -> None:
    def order_of(seed: int) -> list[Any]:
        order: list[Any] = []

        async def main(pump: Pump) -> None:
            for number in range(20):
                pump.schedule(saying(order, number, times=2))
            for _ in range(40):  # a slice may end early
                await asyncio.sleep(0)

        on_a_loop(main, SimulatedClock(seed))
        return order

    assert order_of(1) == order_of(1)
    assert order_of(1) != order_of(2)
    assert sorted(order_of(3)) == sorted([*range(20)] * 2)


def test_the_loop_is_given_back_after_a_slice() -> None:
    async def main(pump: Pump) -> None:
        order: list[str] = []
        pump.schedule(saying(order, "actor", times=3))
        for _ in range(2):
            pump.loop.call_soon(order.append, "loop")
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["actor", "loop", "actor", "loop", "actor"]

    on_a_loop(main, RushedClock())


def test_what_is_put_off_runs_behind_the_handler() -> None:
    async def main(pump: Pump) -> None:
        order: list[str] = []

        def serve() -> bool:
            pump.after(lambda: order.append("after"))
            order.append("handler")
            return False

        pump.schedule(Served(serve))
        pump.schedule(saying(order, "next actor"))
        await asyncio.sleep(0)
        assert order == ["handler", "after", "next actor"]
        pump.after(lambda: order.append("alone"))
        await asyncio.sleep(0)
        assert order[-1] == "alone"

    on_a_loop(main)


def test_an_interrupt_passes_and_the_rest_is_served() -> None:
    loop = asyncio.new_event_loop()
    pump, order = Pump(loop, Clock()), []

    def interrupted() -> bool:
        order.append("interrupted")
        raise KeyboardInterrupt

    pump.schedule(Served(interrupted))
    pump.schedule(saying(order, "next actor"))
    pump.post(order.append, "posted")
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0))
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert sorted(order) == ["interrupted", "next actor", "posted"]
    loop.close()


def test_actors_run_in_the_context_of_the_pump() -> None:
    async def main(_: Pump) -> None:
        WORD.set("the manager's")
        pump = Pump(asyncio.get_running_loop(), Clock())
        WORD.set("a caller's")
        seen: list[str] = []

        def serve() -> bool:
            seen.append(WORD.get())
            return False

        pump.schedule(Served(serve))
        pump.post(serve)
        pump.after(serve)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen == ["the manager's"] * 3

    on_a_loop(main)


def test_two_os_threads_may_find_the_loop_closed() -> None:
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(500):
                loop = asyncio.new_event_loop()
                pump = Pump(loop, Clock())
                loop.close()
                replies: list[Reply[None]] = [Reply(pump) for _ in range(20)]
                for posting in [pool.submit(pump.abandon) for _ in range(2)]:
                    posting.result(10)
                assert not pump.pending
                assert all(type(reply.error()) is InternalAgentDied for reply in replies)
    finally:
        sys.setswitchinterval(interval_s)


def test_the_newest_dead_letters_are_kept() -> None:
    async def main(pump: Pump) -> None:
        for number in range(DEAD_LETTERS + 5):
            pump.refuse(number, "the actor has ended")
        kept = [letter.message for letter in pump.dead_letters]
        assert kept == list(range(5, DEAD_LETTERS + 5))
        assert pump.dead_letters[0].reason == "the actor has ended"

    on_a_loop(main)
