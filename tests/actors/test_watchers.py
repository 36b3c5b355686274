from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from codex_actors import Config, ScriptedModel, Shutdown, ThreadManager, UserInput
from codex_actors.actors.handle import CodexThread
from codex_actors.errors import InternalAgentDied, ReplyTimeout
from codex_actors.model.provider import Completed, TextDelta
from codex_actors.protocol.events import AgentMessageDelta, Event, Lagged, StreamOverrun, TaskComplete
from codex_actors.protocol.ops import ThreadRollback
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.runtime.streams import DELTA_BOUND, EVENT_BOUND, OWN_BOUND
from codex_actors.testing import probe

WAIT_S = 10.0


def start(manager: ThreadManager) -> CodexThread:
    return manager.start_thread(Config()).get(timeout=WAIT_S).thread


def end(thread: CodexThread) -> None:
    thread.submit(Shutdown())
    thread.watch_status().ended().get(timeout=WAIT_S)


def streaming(count: int) -> Any:
    """A model that streams so many deltas and no item."""

    async def answer(prompt: Any) -> Any:
        for number in range(count):
            yield TextDelta(str(number))
        yield Completed(None)

    return ScriptedModel(answer)


def tell_events(thread: CodexThread, count: int) -> None:
    """Have the thread tell so many events that are no deltas."""
    replies = [thread.submit(ThreadRollback(num_turns=0)) for _ in range(count)]
    for reply in replies:
        reply.get(timeout=WAIT_S)


# --- next_event --------------------------------------------------------------------------------------------------------


def test_next_event_reads_from_birth_on() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        thread.run("hi").get(timeout=WAIT_S)
        kinds = [thread.next_event().get(timeout=WAIT_S).msg.type for _ in range(8)]
    assert (kinds[0], kinds[-1]) == ("task_started", "task_complete")


def test_next_event_keeps_the_newest_64() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        tell_events(thread, 100)
        lagged = thread.next_event().get(timeout=WAIT_S)
        assert lagged == Event("", Lagged(missed=100 - OWN_BOUND))
        kept = [thread.next_event().get(timeout=WAIT_S) for _ in range(OWN_BOUND)]
        assert {event.msg.type for event in kept} == {"error"}
        with pytest.raises(ReplyTimeout):
            thread.next_event().get(timeout=0.01)
        thread.run("hi").get(timeout=WAIT_S)
        assert thread.next_event().get(timeout=WAIT_S).msg.type == "task_started"


def test_waiter_that_times_out_loses_no_event() -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel()) as manager:
            thread = (await manager.start_thread(Config())).thread

            async def take() -> Event:
                return await thread.next_event()

            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(take(), 0.01)
            waiter = asyncio.create_task(take())
            await asyncio.sleep(0)
            waiter.cancel()
            await thread.run("hi")
            kinds = [(await asyncio.wait_for(take(), WAIT_S)).msg.type for _ in range(8)]
            assert (kinds[0], kinds[-1]) == ("task_started", "task_complete")

    asyncio.run(main())


def test_next_event_behind_the_end_fails() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        waiting = thread.next_event()
        end(thread)
        assert waiting.get(timeout=WAIT_S).msg.type == "shutdown_complete"
        for _ in range(2):
            with pytest.raises(InternalAgentDied):
                thread.next_event().get(timeout=WAIT_S)


# --- EventStream -------------------------------------------------------------------------------------------------------


def test_stream_counts_from_the_moment_it_is_made() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        thread.run("one").get(timeout=WAIT_S)
        stream = thread.events()
        second = thread.run("two").get(timeout=WAIT_S)
        end(thread)
        events = list(stream)
    assert {event.id for event in events[:-1]} == {second.turn_id}
    assert stream.ended == Ended(thread.thread_id, "shutdown")


def test_async_for_ends_with_the_thread() -> None:
    async def main() -> list[str]:
        async with ThreadManager(model=ScriptedModel()) as manager:
            thread = (await manager.start_thread(Config())).thread
            stream = thread.events()
            await thread.submit(UserInput("hi"))
            kinds: list[str] = []
            async for event in stream:
                kinds.append(event.msg.type)
                if isinstance(event.msg, TaskComplete):
                    await thread.submit(Shutdown())
            return kinds

    assert asyncio.run(main())[-2:] == ["task_complete", "shutdown_complete"]


def test_closed_stream_ends_its_iteration() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        with thread.events() as stream:
            thread.run("hi").get(timeout=WAIT_S)
        assert list(stream) == []
        thread.run("again").get(timeout=WAIT_S)
        assert list(stream) == []


def test_close_wakes_a_reader_that_waits() -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel()) as manager:
            stream = (await manager.start_thread(Config())).thread.events()
            reader = asyncio.create_task(stream.next())
            await asyncio.sleep(0)
            stream.close()
            assert await asyncio.wait_for(reader, WAIT_S) is None

    asyncio.run(main())


def test_stream_of_an_ended_thread_is_over() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        end(thread)
        stream = thread.events()
        assert list(stream) == []
        assert stream.ended == Ended(thread.thread_id, "shutdown")


def test_collected_stream_is_unsubscribed() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        stream = thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        del stream
        gc.collect()
        thread.run("again").get(timeout=WAIT_S)
        assert thread._actor.watchers._streams is None


def test_two_streams_get_every_event_each() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        one, two = thread.events(), thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        end(thread)
        assert list(one) == list(two)


def test_slow_reader_lags_beyond_its_deltas() -> None:
    extra = 500
    with ThreadManager(model=streaming(DELTA_BOUND + extra)) as manager:
        thread = start(manager)
        stream = thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        end(thread)
        events = list(stream)
    deltas = [event.msg.delta for event in events if isinstance(event.msg, AgentMessageDelta)]
    assert deltas == [str(number) for number in range(DELTA_BOUND)]
    lagged = [index for index, event in enumerate(events) if isinstance(event.msg, Lagged)]
    assert [events[index].msg for index in lagged] == [Lagged(missed=extra)]
    assert [event.msg.type for event in events[lagged[0] + 1 :]] == [
        "token_count",
        "task_complete",
        "shutdown_complete",
    ]


def test_reader_that_keeps_up_misses_no_delta() -> None:
    count = 3 * DELTA_BOUND

    async def main() -> None:
        async with ThreadManager(model=streaming(count)) as manager:
            thread = (await manager.start_thread(Config())).thread
            stream = thread.events()
            running = thread.run("hi")
            seen = 0
            async for event in stream:
                assert not isinstance(event.msg, Lagged)
                seen += isinstance(event.msg, AgentMessageDelta)
                if isinstance(event.msg, TaskComplete):
                    break
            await running
            assert seen == count

    asyncio.run(main())


def test_reader_too_far_behind_gets_an_end() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        stream = thread.events()
        tell_events(thread, EVENT_BOUND)
        over = thread.submit(ThreadRollback(num_turns=0)).get(timeout=WAIT_S)
        tell_events(thread, 9)
        fresh = thread.events()
        tell_events(thread, 1)
        events = list(stream)
        assert fresh.next_blocking(WAIT_S) is not None
    assert len(events) == EVENT_BOUND + 1
    assert events[-1].msg == StreamOverrun(missed=11, since=over)
    assert stream.take() is None


# --- StatusWatch -------------------------------------------------------------------------------------------------------


def test_watch_follows_the_status_of_each_event() -> None:
    model = ScriptedModel()
    with ThreadManager(model=model) as manager:
        thread = start(manager)
        watch = thread.watch_status()
        gate = model.hold()
        assert (watch.status, watch.version) == (AgentStatus.PENDING_INIT, 0)
        running = watch.changed(0)
        done = thread.run("hi")
        assert running.get(timeout=WAIT_S) == AgentStatus.RUNNING
        gate.open()
        done.get(timeout=WAIT_S)
        assert watch.changed(1).get(timeout=WAIT_S) == AgentStatus.completed("echo: hi") == watch.status
        assert watch.version == 2


def test_watch_answers_at_once_what_holds_already() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        thread.run("hi").get(timeout=WAIT_S)
        watch = thread.watch_status()
        assert watch.until(lambda status: status.word == "completed").get(timeout=WAIT_S).message == "echo: hi"


def test_predicate_that_raises_fails_its_reply() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        with pytest.raises(ZeroDivisionError):
            thread.watch_status().until(lambda status: 1 / 0 > 1).get(timeout=WAIT_S)
        assert thread.run("hi").get(timeout=WAIT_S).text == "echo: hi"


def test_watch_without_hope_learns_of_the_end() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        never = thread.watch_status().until(lambda status: False)
        end(thread)
        with pytest.raises(InternalAgentDied):
            never.get(timeout=WAIT_S)


def test_everybody_learns_of_the_end_once_and_late() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        early = [thread.watch_status().ended() for _ in range(3)]
        end(thread)
        late = thread.watch_status()
        told = [reply.get(timeout=WAIT_S) for reply in (*early, late.ended(), late.ended())]
    assert told == [Ended(thread.thread_id, "shutdown")] * 5


# --- subscribe ---------------------------------------------------------------------------------------------------------


def test_subscribed_ref_is_told_events_and_one_end() -> None:
    with probe() as watcher, ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        for _ in range(2):
            thread.subscribe(watcher.ref).get(timeout=WAIT_S)
        stream = thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        end(thread)
        told = watcher.until(Ended)
        assert told[:-1] == list(stream)
        assert told[-1] == Ended(thread.thread_id, "shutdown")


def test_unsubscribed_ref_is_told_nothing_more() -> None:
    with probe() as watcher, ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        thread.subscribe(watcher.ref).get(timeout=WAIT_S)
        tell_events(thread, 1)
        assert watcher.next().msg.type == "error"
        thread.unsubscribe(watcher.ref).get(timeout=WAIT_S)
        thread.run("hi").get(timeout=WAIT_S)
        with pytest.raises(ReplyTimeout):
            watcher.next(0.05)


def test_stopped_ref_does_not_disturb_the_thread() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        with probe() as watcher:
            thread.subscribe(watcher.ref).get(timeout=WAIT_S)
        assert thread.run("hi").get(timeout=WAIT_S).text == "echo: hi"
        assert thread._actor.watchers._refs is None


def test_ref_that_subscribes_late_is_told_the_end() -> None:
    with probe() as watcher, ThreadManager(model=ScriptedModel()) as manager:
        thread = start(manager)
        end(thread)
        thread.subscribe(watcher.ref).get(timeout=WAIT_S)
        assert watcher.next() == Ended(thread.thread_id, "shutdown")
