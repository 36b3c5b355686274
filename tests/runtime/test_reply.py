from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pykka
import pytest

from codex_actors.actors.opened import open_in_os_thread
from codex_actors.errors import (
    CodexError,
    DeadlockError,
    InternalAgentDied,
    InvalidRequest,
    ReplyCancelled,
    ReplyTimeout,
)
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply


@pytest.fixture
def far() -> Iterator[Pump]:
    pump, thread = open_in_os_thread(lambda loop: Pump(loop, Clock()))
    yield pump
    if not pump.is_closed():
        pump.loop.call_soon_threadsafe(pump.loop.stop)
    thread.join(10)


def soon(reply: Reply[int], value: int) -> None:
    threading.Timer(0.01, reply.answer, [value]).start()


def test_get_waits_in_another_os_thread(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 10)
    far.post(reply.answer, 1)
    assert reply.get() == 1


def test_get_on_the_loop_names_the_deadlock() -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(Pump(asyncio.get_running_loop(), Clock()), 10)
        with pytest.raises(DeadlockError, match="use `await`"):
            reply.get()
        reply.answer(1)
        assert reply.get() == 1

    asyncio.run(main())


def test_a_second_loop_on_that_os_thread_is_refused() -> None:
    loop = asyncio.new_event_loop()
    reply: Reply[int] = Reply(Pump(loop, Clock()), 10)

    async def main() -> int:
        return await reply

    with pytest.raises(DeadlockError):
        asyncio.run(main())
    loop.close()


def test_a_deadline_belongs_to_its_waiter(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 10)
    with pytest.raises(ReplyTimeout):
        reply.get(timeout=0.01)
    soon(reply, 2)
    assert reply.get() == 2


def test_asyncio_tools_take_a_reply(far: Pump) -> None:
    async def main() -> None:
        replies: list[Reply[int]] = [Reply(far, 10) for _ in range(6)]
        for number, reply in enumerate(replies):
            soon(reply, number)
        assert await asyncio.gather(*replies[:2]) == [0, 1]
        assert await asyncio.wait_for(replies[2], 10) == 2
        async with asyncio.timeout(10):
            assert await asyncio.shield(replies[3]) == 3
        assert [await each for each in asyncio.as_completed(replies[4:])] in ([4, 5], [5, 4])

        async def wrapped() -> int:
            return await replies[0]

        async with asyncio.TaskGroup() as group:
            task = group.create_task(wrapped())
        assert task.result() == 0

    asyncio.run(main())


def test_a_cancelled_waiter_leaves_the_others(far: Pump) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(far, 10)

        async def wait() -> int:
            return await reply

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.cancel()
        soon(reply, 3)
        assert await second == 3
        assert first.cancelled()
        assert await reply == 3

    asyncio.run(main())


def test_derived_replies_do_not_block_the_loop(far: Pump) -> None:
    async def main() -> None:
        first: Reply[list[int]] = Reply(far, 10)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        threading.Timer(0.02, first.answer, [[1, 2, 3]]).start()
        derived = [first.map(len), first.filter(lambda item: item > 1), first.reduce(lambda a, b: a + b)]
        assert await asyncio.gather(*derived) == [3, [2, 3], 6]
        other: Reply[int] = Reply(far, 10)
        other.answer(9)
        assert await first.join(other) == [[1, 2, 3], 9]
        beating.cancel()
        assert beats > 10

    asyncio.run(main())


def test_a_closed_loop_fails_what_waits(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 30)
    threading.Timer(0.05, lambda: far.loop.call_soon_threadsafe(far.loop.stop)).start()
    with pytest.raises(InternalAgentDied):
        reply.get()


def close(far: Pump) -> None:
    far.loop.call_soon_threadsafe(far.loop.stop)


def test_a_closed_loop_fails_a_waiter_on_another(far: Pump) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(far, 30)
        asyncio.get_running_loop().call_later(0.01, close, far)
        with pytest.raises(InternalAgentDied):
            await reply

    asyncio.run(main())


def test_a_loop_closed_before_is_no_deadlock() -> None:
    loop = asyncio.new_event_loop()
    reply: Reply[int] = Reply(Pump(loop, Clock()), 30)
    loop.close()

    async def main() -> None:
        with pytest.raises(InternalAgentDied):
            await reply

    asyncio.run(main())


def test_a_loop_closed_before_is_seen_at_once() -> None:
    loop = asyncio.new_event_loop()
    reply: Reply[int] = Reply(Pump(loop, Clock()), 10)
    loop.close()
    with pytest.raises(InternalAgentDied):
        reply.get(timeout=0)


def test_several_os_threads_wait_for_one_reply(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 10)
    got: list[int] = []
    waiters = [threading.Thread(target=lambda: got.append(reply.get())) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    reply.answer(5)
    for waiter in waiters:
        waiter.join(10)
    assert got == [5] * 4


def test_a_timeout_of_asyncio_leaves_the_work(far: Pump) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(far, 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply, 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reply
        assert not reply.done()
        soon(reply, 6)
        assert await reply == 6

    asyncio.run(main())


def test_a_cancelled_reply_tells_every_waiter(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 10)
    assert reply.cancel()
    assert not reply.cancel()
    with pytest.raises(ReplyCancelled):
        reply.get()


def test_a_host_future_is_joined_without_blocking(far: Pump) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(far, 10)
        future: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
        reply.answer(1)
        threading.Timer(0.01, future.set, [2]).start()
        assert await reply.join(future) == [1, 2]

    asyncio.run(main())


def test_a_get_hook_runs_once_for_await(far: Pump) -> None:
    async def main() -> None:
        reply: Reply[int] = Reply(far, 10)
        calls: list[float | None] = []
        reply.set_get_hook(lambda timeout: calls.append(timeout) or 7)  # type: ignore[func-returns-value]
        assert await reply == 7
        assert await reply == 7
        assert len(calls) == 1

    asyncio.run(main())


def test_a_deadline_does_not_wait_for_a_get_hook(far: Pump) -> None:
    reply: Reply[int] = Reply(far, 10)
    entered, gate, got = threading.Event(), threading.Event(), list[int]()

    def hook(_timeout: float | None) -> int:
        entered.set()
        assert gate.wait(10)
        return 7

    reply.set_get_hook(hook)
    first = threading.Thread(target=lambda: got.append(reply.get()))
    first.start()
    assert entered.wait(10)
    with pytest.raises(ReplyTimeout):
        reply.get(timeout=0.01)
    gate.set()
    first.join(10)
    assert (got, reply.get()) == ([7], 7)


class Held:
    pass


def test_a_failed_reply_keeps_no_frames() -> None:
    reply: Reply[int] = Reply()

    def fail() -> weakref.ref[Held]:
        held = Held()
        try:
            try:
                raise ValueError("cause")
            except ValueError as error:
                raise InvalidRequest("effect") from error
        except CodexError as error:
            reply.fail(error)
        return weakref.ref(held)

    gc.disable()
    try:
        held = fail()
        assert held() is None
        with pytest.raises(InvalidRequest, match="effect") as raised:
            reply.get()
        assert isinstance(raised.value.__cause__, ValueError)
    finally:
        gc.enable()


def test_an_error_that_nobody_saw_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    reply: Reply[int] = Reply()
    reply.fail(InvalidRequest("unseen"))
    with caplog.at_level(logging.ERROR):
        del reply
    assert "unseen" in caplog.text


def test_a_cancelled_reply_is_no_unseen_error(caplog: pytest.LogCaptureFixture) -> None:
    reply: Reply[int] = Reply()
    assert reply.cancel()
    del reply
    assert caplog.text == ""


def test_a_failed_reply_keeps_no_frames_of_a_group() -> None:
    reply: Reply[int] = Reply()

    def fail() -> weakref.ref[Held]:
        held, parts = Held(), []
        try:
            raise ValueError("part")
        except ValueError as error:
            parts.append(error)
        reply.fail(ExceptionGroup("whole", parts))
        parts.clear()
        return weakref.ref(held)

    gc.disable()
    try:
        assert fail()() is None
        with pytest.raises(ExceptionGroup, match="whole"):
            reply.get()
    finally:
        gc.enable()
