from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import DeadlockError, InternalAgentDied, ReplyTimeout
from codex_actors.protocol.events import AgentMessage, AgentMessageDelta, Event, EventMsg, Lagged, StreamOverrun
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.runtime import streams
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.status_watch import StatusCell, StatusWatch
from codex_actors.runtime.streams import OWN_BOUND, EventStream, NextEvent

ENDED = Ended(ThreadId("01999999-9999-7999-8999-999999999999"), "shutdown")


def event(number: int, *, is_delta: bool = False) -> Event:
    msg: EventMsg = AgentMessageDelta(delta="d") if is_delta else AgentMessage(message="m")
    return Event(str(number), msg)


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


def on_a_loop(test: Callable[[Pump], Any]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(Pump(asyncio.get_running_loop(), Clock())), 20)

    asyncio.run(main())


class Elsewhere:
    """A pump that no OS thread of this test serves."""

    def __enter__(self) -> Pump:
        self._loop = asyncio.new_event_loop()
        return Pump(self._loop, Clock())

    def __exit__(self, *_: object) -> None:
        self._loop.close()


ACTS = st.lists(st.sampled_from(["delta", "event", "read", "read", "drain"]), max_size=80)


@given(acts=ACTS, delta_bound=st.integers(1, 6), event_bound=st.integers(1, 4))
def test_a_stream_accounts_for_every_event(acts: list[str], delta_bound: int, event_bound: int) -> None:
    with Elsewhere() as pump, pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "DELTA_BOUND", delta_bound)
        patch.setattr(streams, "EVENT_BOUND", event_bound)
        stream, kinds, reader = EventStream(pump, None), [""], Account()
        for act in [*acts, "drain"]:
            if act in ("delta", "event"):
                kinds.append(act)
                stream.push(event(len(kinds) - 1, is_delta=act == "delta"))
            else:
                while (taken := stream.take()) is not None:
                    reader.take(taken, kinds)
                    if act == "read":
                        break
        assert reader.is_over or reader.position == len(kinds) - 1
        stream.finish(ENDED)
        assert stream.is_over


class Account:
    """What a reader knows: its position in the sequence of all events, gaps counted."""

    def __init__(self) -> None:
        self.position = 0
        self.is_over = False

    def take(self, taken: Event, kinds: list[str]) -> None:
        assert not self.is_over
        if isinstance(taken.msg, Lagged):
            missed = kinds[self.position + 1 : self.position + 1 + taken.msg.missed]
            assert set(missed) == {"delta"}
            self.position += taken.msg.missed
        elif isinstance(taken.msg, StreamOverrun):
            assert "event" in kinds[self.position + 1 :]
            assert taken.msg.missed == len(kinds) - 1 - self.position
            self.is_over = True
        else:
            self.position += 1
            assert taken.id == str(self.position)


@given(st.lists(st.integers(0, 90), max_size=6))
def test_a_rolling_stream_keeps_the_newest(bursts: list[int]) -> None:
    with Elsewhere() as pump:
        stream, pushed, position = EventStream(pump, None, rolling=True).readable(), 0, 0
        for burst in bursts:
            for _ in range(burst):
                pushed += 1
                stream.push(event(pushed))
            seen = 0
            while (taken := stream.take()) is not None:
                if isinstance(taken.msg, Lagged):
                    position += taken.msg.missed
                else:
                    position += 1
                    seen += 1
                    assert taken.id == str(position)
            assert position == pushed
            assert seen == min(burst, OWN_BOUND)


def test_a_reader_on_the_loop_waits_for_events() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None)

        async def read() -> list[str]:
            return ids([event async for event in stream])

        reading = asyncio.create_task(read())
        for number in range(5):
            await asyncio.sleep(0)
            stream.push(event(number))
        stream.finish(ENDED)
        assert await reading == ["0", "1", "2", "3", "4"]
        assert stream.ended is ENDED
        assert await stream.next() is None

    on_a_loop(main)


def test_readers_share_a_stream_each_event_once() -> None:
    async def main(pump: Pump) -> None:
        stream, taken = EventStream(pump, None), []

        def read() -> None:
            taken.extend(ids(list(stream)))

        readers = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(4)]
        for number in range(500):
            stream.push(event(number))
            if number % 10 == 0:
                await asyncio.sleep(0)
        stream.finish(ENDED)
        await asyncio.gather(*readers)
        assert sorted(map(int, taken)) == list(range(500))

    on_a_loop(main)


def test_a_foreign_loop_reads_a_stream() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None)

        async def read() -> list[str]:
            return ids([event async for event in stream])

        reading = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(read())))
        for number in range(50):
            await asyncio.sleep(0)
            stream.push(event(number))
        stream.finish(ENDED)
        assert len(await reading) == 50

    on_a_loop(main)


def test_a_blocking_read_on_the_loop_is_refused() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None)
        with pytest.raises(DeadlockError):
            next(stream)
        stream.push(event(1))
        assert next(stream).id == "1"

    on_a_loop(main)


def test_a_reader_that_gives_up_takes_no_event() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None)
        with pytest.raises(ReplyTimeout):
            await stream.next(timeout_s=0.01)
        reading = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        reading.cancel()
        stream.push(event(1))
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert stream.take() == event(1)
        with pytest.raises(ReplyTimeout):
            await asyncio.to_thread(stream.next_blocking, 0.01)

    on_a_loop(main)


def test_closing_a_stream_wakes_its_reader() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None)
        reading = asyncio.create_task(stream.next())
        blocked = asyncio.create_task(asyncio.to_thread(stream.next_blocking))
        await asyncio.sleep(0)
        with stream:
            stream.push(event(1))
        assert {await reading, await blocked} <= {None, event(1)}
        stream.push(event(2))
        assert stream.take() is None
        assert stream.is_over

    on_a_loop(main)


@pytest.fixture
def hasty_os_threads() -> Iterator[None]:
    """OS threads that take turns as often as they can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


@pytest.mark.usefixtures("hasty_os_threads")
def test_two_os_threads_may_close_a_stream() -> None:
    def close() -> None:
        while len(woken) < 20_000:
            stream.close()

    with Elsewhere() as pump, ThreadPoolExecutor(2) as pool:
        stream, woken = EventStream(pump, None), list[int]()
        closing = [pool.submit(close) for _ in range(2)]
        assert stream._waiters is not None
        for number in range(0, 20_000, 4):
            stream._waiters.extend([partial(woken.append, number + more) for more in range(4)])
        for closed in closing:
            closed.result(10)
    assert sorted(woken) == [*range(20_000)]


def test_a_stream_holds_its_thread_until_closed_or_ended() -> None:
    class Thread:
        pass

    with Elsewhere() as pump:
        for end in (EventStream.close, lambda stream: stream.finish(ENDED)):
            kept = Thread()
            stream, held = EventStream(pump, kept), weakref.ref(kept)
            del kept
            assert held() is not None
            end(stream)
            assert held() is None


def test_a_next_event_that_nobody_waits_for_takes_nothing() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None, rolling=True).readable()
        first, second = NextEvent(stream, 10), NextEvent(stream, 10)
        assert not first.done()
        stream.push(event(1))
        assert first.done()
        assert second.done()
        assert (await second).id == "1"
        assert (await second).id == "1"
        assert not first.done()
        stream.finish(ENDED)
        with pytest.raises(InternalAgentDied, match="the thread has ended"):
            await first

    on_a_loop(main)


def test_waiters_of_one_next_event_take_one_event() -> None:
    async def main(pump: Pump) -> None:
        stream = EventStream(pump, None, rolling=True).readable()
        reply = NextEvent(stream, 10)

        async def wait() -> Event:
            return await reply

        waiters = [asyncio.create_task(wait()) for _ in range(2)]
        waiters += [asyncio.create_task(asyncio.to_thread(reply.get)) for _ in range(2)]
        await asyncio.sleep(0)
        while len(stream._waiters or ()) < len(waiters):
            assert not reply.done()
        stream.push(event(1))
        stream.push(event(2))
        assert ids(await asyncio.gather(*waiters)) == ["1"] * 4
        assert stream.take() == event(2)

    on_a_loop(main)


def watch_of(pump: Pump) -> tuple[StatusCell, StatusWatch]:
    cell = StatusCell()
    return cell, StatusWatch(pump, cell, None, 10)


def test_a_watch_tells_the_latest_change() -> None:
    async def main(pump: Pump) -> None:
        cell, watch = watch_of(pump)
        changed = watch.changed()
        cell.set(AgentStatus.RUNNING)
        cell.set(AgentStatus.INTERRUPTED)
        assert await changed == AgentStatus.INTERRUPTED
        assert (watch.status, watch.version) == (AgentStatus.INTERRUPTED, 2)
        assert await watch.changed(since=1) == AgentStatus.INTERRUPTED
        assert await watch.until(lambda status: status == AgentStatus.INTERRUPTED) == AgentStatus.INTERRUPTED

    on_a_loop(main)


def test_a_watch_of_an_ended_thread_answers() -> None:
    async def main(pump: Pump) -> None:
        cell, watch = watch_of(pump)
        before, waiting = watch.ended(), watch.changed()
        await asyncio.sleep(0)
        cell.end(ENDED)
        assert await before is ENDED
        assert await watch.ended() is ENDED
        for reply in (waiting, watch.changed(), watch.until(lambda status: status == AgentStatus.RUNNING)):
            with pytest.raises(InternalAgentDied, match="the thread has ended"):
                await reply

    on_a_loop(main)


def test_a_predicate_that_raises_fails_its_reply_only() -> None:
    async def main(pump: Pump) -> None:
        cell, watch = watch_of(pump)
        bad, good = watch.until(lambda status: bool(1 // 0)), watch.changed()
        cell.set(AgentStatus.RUNNING)
        with pytest.raises(ZeroDivisionError):
            await bad
        assert await good == AgentStatus.RUNNING

    on_a_loop(main)


def test_a_predicate_that_exits_fails_its_reply_only() -> None:
    async def main(pump: Pump) -> None:
        cell, watch = watch_of(pump)
        bad, good = watch.until(lambda status: sys.exit(3)), watch.changed()
        cell.set(AgentStatus.RUNNING)
        assert await good == AgentStatus.RUNNING
        with pytest.raises(SystemExit):
            await bad

    on_a_loop(main)


def test_a_predicate_of_ctrl_c_interrupts_the_loop_once() -> None:
    async def main() -> None:
        cell, watch = watch_of(Pump(asyncio.get_running_loop(), Clock()))
        bad, good = watch.until(interrupt), watch.changed()
        cell.set(AgentStatus.RUNNING)
        assert await good == AgentStatus.RUNNING
        with pytest.raises(InternalAgentDied, match="keyboard"):
            await bad

    def interrupt(_status: AgentStatus) -> bool:
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    loop.close()


def test_a_status_reply_that_nobody_holds_is_forgotten() -> None:
    class Thread:
        pass

    async def main(pump: Pump) -> None:
        cell, kept = StatusCell(), Thread()
        held = weakref.ref(kept)
        never = StatusWatch(pump, cell, kept, 10).until(lambda status: False)
        del kept
        await asyncio.sleep(0)
        assert held() is not None
        del never
        assert held() is None
        cell.set(AgentStatus.RUNNING)
        assert cell.waiters == []

    gc.collect()
    gc.disable()
    try:
        on_a_loop(main)
    finally:
        gc.enable()


def test_a_closed_loop_fails_a_status_reply() -> None:
    with Elsewhere() as pump:
        _, watch = watch_of(pump)
        waiting = watch.ended()
    failed = threading.Event()
    waiting.when_done(failed.set)
    pump.post(print, "never")
    assert failed.is_set()
    with pytest.raises(InternalAgentDied, match="event loop was closed"):
        waiting.get()


@pytest.mark.parametrize("read", [EventStream.next_blocking, lambda stream: asyncio.run(stream.next())])
def test_a_closed_loop_ends_a_foreign_reader(read: Callable[[EventStream], Event | None]) -> None:
    with Elsewhere() as pump:
        stream, read_events = EventStream(pump, None), []
        reader = threading.Thread(target=lambda: read_events.append(read(stream)), daemon=True)
        reader.start()
        while not stream._waiters:
            assert reader.is_alive()
    reader.join(10)
    assert read_events == [None]


def test_an_unread_stream_keeps_only_the_first_deltas() -> None:
    async def main() -> None:
        stream = EventStream(Pump(asyncio.get_running_loop(), Clock()), None, rolling=True)
        for number in range(40):
            stream.push(Event("1", AgentMessageDelta(delta=str(number))))
        stream.readable()
        stream.push(Event("1", AgentMessageDelta(delta="read")))
        told = []
        while (event := stream.take()) is not None:
            told.append(event.msg)
        assert [msg.delta for msg in told if isinstance(msg, AgentMessageDelta)] == [*map(str, range(16)), "read"]
        assert told[16] == Lagged(missed=24)

    asyncio.run(main())
