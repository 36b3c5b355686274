from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors import AgentStatus, Config, ManagerConfig, New, Reply, ScriptedModel, ThreadManager
from codex_actors.actors.thread import ThreadActor
from codex_actors.errors import CodexError, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.events import ShutdownComplete, TaskComplete
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.reader import get_rollout_history

UNKNOWN = ThreadId("01999999-9999-7999-8999-999999999999")


@pytest.fixture(autouse=True)
def _no_cyclic_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def settle(manager: ThreadManager) -> None:
    """The loop's OS thread has left the handler whose answer we got."""
    assert manager._opened is not None
    manager._opened.shared.pump.call(lambda: None, 10).get()


def supervisor_of(manager: ThreadManager) -> weakref.ref[Any]:
    assert manager._supervisor is not None
    return weakref.ref(manager._supervisor)


def live_threads(manager: ThreadManager) -> set[ThreadId]:
    assert manager._opened is not None
    shared = manager._opened.shared
    return {
        item.thread_id
        for item in gc.get_objects()
        if isinstance(item, ThreadActor) and item.shared is shared and not item.has_ended
    }


def texts(path: Path | None) -> str:
    assert path is not None
    return path.read_text()


def test_dropping_a_sync_manager_kills_its_supervisor_at_once(tmp_path: Path) -> None:
    manager = ThreadManager(tmp_path)
    manager.__enter__()
    os_thread = manager._os_thread
    thread = manager.start_thread(Config()).get().thread
    assert thread.run("hello").get(timeout=10).text == "echo: hello"
    control, stray, actor_ref = manager.agent_control(), manager._opened._ref, thread._actor.actor_ref  # type: ignore[union-attr]
    failed, stream, watch = manager.get_thread(UNKNOWN), thread.events(), thread.watch_status()
    with pytest.raises(ThreadNotFound):
        failed.get(timeout=10)
    settle(manager)
    supervisor = supervisor_of(manager)
    assert gc.isenabled() is False

    del manager
    assert supervisor() is None

    assert stray._actor_weakref() is None
    assert actor_ref.actor_class is ThreadActor
    with pytest.raises(UnsupportedOperation, match=r"^unsupported operation: thread manager dropped$"):
        control.send_input(thread.thread_id, "more")
    assert control.get_status(thread.thread_id).get() == AgentStatus.NOT_FOUND
    assert watch.ended().get(timeout=10).reason == "shutdown"
    assert thread.agent_status() == AgentStatus.SHUTDOWN
    assert [type(event.msg) for event in stream] == [ShutdownComplete]
    assert os_thread is not None
    os_thread.join(10)
    assert not os_thread.is_alive()
    assert "echo: hello" in texts(thread.rollout_path)


def test_dropping_an_async_manager_kills_its_supervisor_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        model = ScriptedModel()
        manager = ThreadManager(tmp_path, model=model)
        await manager.__aenter__()
        idle = (await manager.start_thread(Config())).thread
        busy = (await manager.start_thread(Config())).thread
        gate = model.hold()
        running = busy.run("in the middle")
        await gate.wait_reached()
        control, stray = manager.agent_control(), manager._opened._ref  # type: ignore[union-attr]
        failed, stream, watch = manager.get_thread(UNKNOWN), busy.events(), idle.watch_status()
        with pytest.raises(ThreadNotFound):
            await failed
        supervisor = supervisor_of(manager)

        del manager
        assert supervisor() is None

        assert stray._actor_weakref() is None
        with pytest.raises(UnsupportedOperation, match=r"^unsupported operation: thread manager dropped$"):
            control.interrupt_agent(busy.thread_id)
        assert await control.get_status(idle.thread_id) == AgentStatus.NOT_FOUND
        assert (await asyncio.wait_for(running, 10)).status == AgentStatus.INTERRUPTED
        assert (await asyncio.wait_for(watch.ended(), 10)).reason == "shutdown"
        last = [event.msg async for event in stream][-1]
        assert isinstance(last, ShutdownComplete)
        assert busy.agent_status() == AgentStatus.SHUTDOWN
        assert "in the middle" in texts(busy.rollout_path)
        assert "turn_aborted" in texts(busy.rollout_path)

    asyncio.run(main())


@pytest.mark.parametrize("held", ["control", "handle", "ref", "stream", "watch", "reply", "new_thread"])
def test_no_single_held_thing_keeps_the_supervisor(held: str) -> None:
    async def main() -> None:
        manager = ThreadManager()
        await manager.__aenter__()
        new = await manager.start_thread(Config())
        await new.thread.run("hello")
        failed = manager.get_thread(UNKNOWN)
        with pytest.raises(ThreadNotFound):
            await failed
        kept: Any = {
            "control": manager.agent_control(),
            "handle": new.thread,
            "ref": manager._opened._ref,  # type: ignore[union-attr]
            "stream": new.thread.events(),
            "watch": new.thread.watch_status(),
            "reply": failed,
            "new_thread": new,
        }[held]
        watch = new.thread.watch_status()
        del new, failed
        supervisor = supervisor_of(manager)
        del manager
        assert supervisor() is None
        assert kept is not None
        await asyncio.wait_for(watch.ended(), 10)

    asyncio.run(main())


def test_a_failed_reply_of_a_closed_manager_holds_nothing() -> None:
    async def main() -> None:
        async with ThreadManager() as manager:
            thread = (await manager.start_thread(Config())).thread
            failed = manager.get_thread(UNKNOWN)
            refused = thread._actor.actor_ref.ask("no message", block=False)
            with pytest.raises(TypeError):
                await refused
            with pytest.raises(ThreadNotFound):
                await failed
            supervisor, actor = supervisor_of(manager), weakref.ref(thread._actor)
            del thread
        assert supervisor() is None
        gc.collect()
        assert actor() is None
        assert isinstance(refused, Reply)
        assert refused.done()
        assert failed.done()

    asyncio.run(main())


def test_a_removed_thread_lives_while_it_is_held(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        control = manager.agent_control()
        removed = manager.remove_thread(thread.thread_id).get()
        assert removed is thread
        del removed
        assert manager.list_thread_ids().get() == []
        assert manager.remove_thread(thread.thread_id).get() is None
        with pytest.raises(ThreadNotFound):
            manager.get_thread(thread.thread_id).get()
        with pytest.raises(ThreadNotFound):
            control.send_input(thread.thread_id, "by control").get()
        assert control.get_status(thread.thread_id).get() == AgentStatus.NOT_FOUND
        assert thread.run("by handle").get(timeout=10).text == "echo: by handle"


@pytest.mark.parametrize("holder", ["handle", "stream", "watch", "run", "changed"])
def test_a_removed_thread_ends_with_its_last_holder(holder: str) -> None:
    model = ScriptedModel()
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread_id, cell = thread.thread_id, thread._actor.cell
        gate = model.hold()
        held: Any = {
            "handle": lambda: thread,  # noqa: F821  called before its `del`
            "stream": thread.events,
            "watch": thread.watch_status,
            "run": lambda: thread.run("long"),  # noqa: F821
            "changed": lambda: thread.watch_status().until(lambda status: status.word == "running"),  # noqa: F821
        }[holder]()
        manager.remove_thread(thread_id).get()
        del thread
        settle(manager)
        settle(manager)
        assert live_threads(manager) == {thread_id}
        gate.open()
        if holder == "run":
            assert held.get(timeout=10).text == "echo: long"
        del held
        until_ended(manager, cell)
        assert live_threads(manager) == set()


def until_ended(manager: ThreadManager, cell: Any) -> None:
    ended = threading.Event()

    def look() -> bool:
        if cell.ended is not None:
            ended.set()
        return bool(ended.is_set())

    assert manager._opened is not None
    manager._opened.shared.pump.post(cell.wait, look)
    assert ended.wait(10)


def test_a_released_thread_finishes_what_it_had_accepted(tmp_path: Path) -> None:
    model = ScriptedModel()
    with ThreadManager(tmp_path, model=model) as manager:
        gate = model.hold()
        thread = manager.start_thread(Config()).get().thread
        thread.submit({"type": "user_input", "items": [{"type": "text", "text": "first"}]}).get(timeout=10)
        assert gate.reached.wait(10)
        thread.submit({"type": "user_input", "items": [{"type": "text", "text": "steered"}]}).get(timeout=10)
        path, cell, thread_id = thread.rollout_path, thread._actor.cell, thread.thread_id
        assert manager.remove_thread(thread_id).get() is thread
        del thread
        settle(manager)
        gate.open()
        until_ended(manager, cell)
        recorded = texts(path)
        assert "echo: first" in recorded
        assert "steered" in recorded
        assert "turn_aborted" not in recorded
        assert cell.ended is not None
        assert cell.ended.reason == "shutdown"


def test_resume_of_a_removed_living_id_lists_it_again(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hello").get(timeout=10)
        manager.remove_thread(thread.thread_id).get()
        assert thread.rollout_path is not None
        again = manager.resume_thread_from_rollout(Config(), thread.rollout_path).get()
        assert again.thread is thread
        assert manager.list_thread_ids().get() == [thread.thread_id]
        assert manager.get_thread(thread.thread_id).get() is thread
        thread_id, watch = thread.thread_id, manager.agent_control().subscribe_status(thread.thread_id).get()
        del thread, again, watch
        settle(manager)
        assert manager.agent_control().get_status(thread_id).get().word == "completed"


def test_an_ended_thread_resumes_as_a_new_one(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hello").get(timeout=10)
        thread_id, path = thread.thread_id, thread.rollout_path
        manager.agent_control().shutdown_agent(thread_id).get(timeout=10)
        assert path is not None
        again = manager.resume_thread_with_history(Config(), get_rollout_history(path)).get()
        assert again.thread_id == thread_id
        assert again.thread is not thread
        assert again.thread.run("more").get(timeout=10).text == "echo: more"


def test_listed_and_held_threads_are_all_that_live() -> None:
    with ThreadManager() as manager:
        held = {}
        for number in range(12):
            thread = manager.start_thread(Config()).get().thread
            thread.run(f"turn {number}").get(timeout=10)
            cell = thread._actor.cell
            if number % 2:
                manager.remove_thread(thread.thread_id).get()
            if number % 3 == 0:
                held[thread.thread_id] = thread
            thread_id = thread.thread_id
            del thread
            settle(manager)
            if number % 2 and number % 3:
                until_ended(manager, cell)
                assert thread_id not in live_threads(manager)
            assert live_threads(manager) == {*manager.list_thread_ids().get(), *held}


def test_a_removed_thread_that_is_held_ends_at_close() -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        manager.remove_thread(thread.thread_id).get()
        report = manager.close().get(timeout=10)
    assert report.completed == (thread.thread_id,)
    assert thread.agent_status() == AgentStatus.SHUTDOWN
    with pytest.raises(CodexError):
        thread.run("too late").get(timeout=10)


def test_a_child_and_its_control_do_not_keep_the_manager() -> None:
    async def main() -> None:
        manager = ThreadManager(config=ManagerConfig(durability="memory"))
        await manager.__aenter__()
        control = manager.agent_control()
        child_id = await control.spawn_agent(Config(), "work")
        watch = await control.subscribe_status(child_id)
        assert (await watch.until(lambda status: status.word == "completed")).message == "echo: work"
        supervisor = supervisor_of(manager)
        del manager
        assert supervisor() is None
        await asyncio.wait_for(watch.ended(), 10)
        assert await control.get_status(child_id) == AgentStatus.NOT_FOUND

    asyncio.run(main())


def test_a_start_in_flight_does_not_outlive_the_drop() -> None:
    async def main() -> None:
        manager = ThreadManager()
        await manager.__aenter__()
        supervisor = supervisor_of(manager)
        starting = manager.resume_thread_with_history(Config(), New())
        report = manager._opened.report  # type: ignore[union-attr]
        del manager
        with pytest.raises(CodexError):
            await asyncio.wait_for(starting, 10)
        assert supervisor() is None
        assert (await asyncio.wait_for(report, 10)).timed_out == ()

    asyncio.run(main())


def test_a_turn_that_completed_is_whole_after_a_drop(tmp_path: Path) -> None:
    manager = ThreadManager(tmp_path, config=ManagerConfig(durability="memory"))
    manager.__enter__()
    os_thread = manager._os_thread
    thread = manager.start_thread(Config()).get().thread
    stream = thread.events()
    replies = [thread.run(f"input {number}") for number in range(20)]
    assert all(reply.get(timeout=10).text for reply in replies)
    del manager
    done = [event for event in stream if isinstance(event.msg, TaskComplete)]
    assert done
    assert os_thread is not None
    os_thread.join(10)
    recorded = texts(thread.rollout_path)
    assert all(f"input {number}" in recorded for number in range(20))


def test_a_load_that_lasts_does_not_keep_the_manager(tmp_path: Path) -> None:
    pipe = tmp_path / "slow.jsonl"
    os.mkfifo(pipe)
    manager = ThreadManager(tmp_path)
    manager.__enter__()
    supervisor, os_thread = supervisor_of(manager), manager._os_thread
    loading = manager.resume_thread_from_rollout(Config(), pipe)
    settle(manager)
    del manager
    assert supervisor() is None
    with open(pipe, "w"):  # the reader gets its end
        pass
    with pytest.raises(CodexError):
        loading.get(timeout=10)
    assert os_thread is not None
    os_thread.join(20)
    assert not os_thread.is_alive()
