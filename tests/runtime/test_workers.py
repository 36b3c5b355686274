from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from codex_actors.errors import UnsupportedOperation
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply
from codex_actors.runtime.workers import WORKING_BOUND, Workers
from codex_actors.testing import no_leaks

WORD: contextvars.ContextVar[str] = contextvars.ContextVar("WORD", default="nobody's")


class Crowd:
    """Jobs that begin, are counted, and wait to be let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.gate = threading.Event()
        self.os_threads: list[threading.Thread] = []

    def job(self) -> str:
        self.os_threads.append(threading.current_thread())
        self.began.release()
        assert self.gate.wait(20)
        return "let go"

    async def until(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.began.acquire, timeout=10)


def on_a_loop(test: Callable[[Workers, Pump], Any]) -> None:
    async def main() -> None:
        pump = Pump(asyncio.get_running_loop(), Clock())
        workers = Workers(pump)
        try:
            await asyncio.wait_for(test(workers, pump), 20)
        finally:
            workers.close()

    with no_leaks():
        asyncio.run(main())


def test_a_call_runs_in_a_daemon_os_thread() -> None:
    async def main(workers: Workers, pump: Pump) -> None:
        os_thread = await workers.run(threading.current_thread)
        assert os_thread.daemon
        assert os_thread.name == "codex_actors-tool"
        assert os_thread.ident != pump.ident

    on_a_loop(main)


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), SystemExit(3), asyncio.CancelledError("its own")])
def test_what_a_call_raises_is_its_answer(error: BaseException) -> None:
    async def main(workers: Workers, _: Pump) -> None:
        def fail() -> None:
            raise error

        reply, _job = workers.submit(fail)
        with pytest.raises(type(error)):
            await reply
        assert await workers.run(lambda: "still at work") == "still at work"

    on_a_loop(main)


def test_a_call_sees_its_context_and_keeps_its_own() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        WORD.set("the caller's")

        def look() -> str:
            seen = WORD.get()
            WORD.set("the tool's")
            return seen

        assert await workers.run(look) == "the caller's"
        assert await workers.run(look) == "the caller's"
        assert WORD.get() == "the caller's"
        given = contextvars.Context()
        assert await workers.run(look, given) == "nobody's"
        assert given[WORD] == "the tool's"

    on_a_loop(main)


def test_an_idle_os_thread_is_used_again() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        idents = set()
        for _number in range(20):
            idents.add(await workers.run(threading.get_ident))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert len(idents) <= 2

    on_a_loop(main)


def test_the_thirty_third_call_waits_for_a_place() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        crowd, last_began = Crowd(), threading.Event()
        replies = [workers.submit(crowd.job)[0] for _ in range(WORKING_BOUND)]
        await crowd.until(WORKING_BOUND)

        def begin() -> str:
            last_began.set()
            return "the last"

        last, _job = workers.submit(begin)
        assert len(workers._waiting) == 1
        assert not last_began.is_set()
        crowd.gate.set()
        assert await last == "the last"
        assert [await reply for reply in replies] == ["let go"] * WORKING_BOUND

    on_a_loop(main)


def test_a_call_that_gets_no_os_thread_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_os_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main(workers: Workers, _: Pump) -> None:
        ran = list[str]()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(UnsupportedOperation, match="can't start new thread"):
                await workers.run(lambda: ran.append("it ran"))
        assert workers._total == 0
        assert await workers.run(lambda: "later") == "later"
        assert ran == []

    on_a_loop(main)


def test_a_call_that_waits_for_a_reply_gives_its_place() -> None:
    async def main(workers: Workers, pump: Pump) -> None:
        awaited: Reply[str] = Reply(pump)
        began = threading.Semaphore(0)

        def wait() -> str:
            began.release()
            return awaited.get(timeout=20)

        waiting = [workers.submit(wait)[0] for _ in range(WORKING_BOUND)]
        assert await workers.run(lambda: "found a place") == "found a place"
        awaited.answer("now")
        assert [await reply for reply in waiting] == ["now"] * WORKING_BOUND

    on_a_loop(main)


def test_a_call_that_is_given_up_is_counted_until_it_ends() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        crowd = Crowd()
        running = asyncio.create_task(workers.run(crowd.job))
        await crowd.until(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert workers.abandoned == 1
        crowd.gate.set()
        workers.close()
        await asyncio.to_thread(crowd.os_threads[0].join, 10)
        assert workers.abandoned == 0

    on_a_loop(main)


def test_a_call_given_up_before_it_began_never_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def main(workers: Workers, _: Pump) -> None:
        crowd, ran = Crowd(), list[str]()
        for _number in range(WORKING_BOUND):
            workers.submit(crowd.job)
        await crowd.until(WORKING_BOUND)
        waiting = asyncio.create_task(workers.run(lambda: ran.append("it ran")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert workers.abandoned == 0
        crowd.gate.set()
        await workers.run(lambda: None)
        assert ran == []

    on_a_loop(main)
    assert "nobody looked" not in caplog.text


def test_an_abandoned_call_gives_its_place_away() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        crowd = Crowd()
        running = [asyncio.create_task(workers.run(crowd.job)) for _ in range(WORKING_BOUND)]
        await crowd.until(WORKING_BOUND)
        running[0].cancel()
        assert await workers.run(lambda: "in its place") == "in its place"
        crowd.gate.set()
        await asyncio.gather(*running[1:])

    on_a_loop(main)


def test_a_close_refuses_calls_and_leaves_none_waiting() -> None:
    async def main(workers: Workers, _: Pump) -> None:
        crowd = Crowd()
        working = [workers.submit(crowd.job)[0] for _ in range(WORKING_BOUND)]
        await crowd.until(WORKING_BOUND)
        waiting, _job = workers.submit(lambda: "never")
        workers.close()
        with pytest.raises(UnsupportedOperation, match="closed"):
            await waiting
        with pytest.raises(UnsupportedOperation, match="closed"):
            workers.submit(lambda: "never")
        crowd.gate.set()
        assert [await reply for reply in working] == ["let go"] * WORKING_BOUND

    on_a_loop(main)
