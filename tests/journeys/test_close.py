from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pykka
import pytest

from codex_actors import Config, ManagerConfig, ScriptedModel, Shutdown, ThreadManager, UserInput, tool
from codex_actors.actors.supervisor import SupervisorActor
from codex_actors.errors import InternalAgentDied, RolloutError, UnsupportedOperation
from codex_actors.protocol.items import FunctionCall
from codex_actors.runtime.mailbox import Letter


def test_the_report_lists_what_ended(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        ids = sorted(manager.start_thread(Config()).get().thread_id for _ in range(3))
        report = manager.close().get(timeout=20)
    assert list(report.completed) == ids
    assert (report.timed_out, report.unwritten, report.abandoned_tools, report.is_drained) == ((), (), 0, True)


def test_a_second_close_gives_the_same_report() -> None:
    with ThreadManager() as manager:
        first = manager.close().get(timeout=20)
        assert manager.close().get(timeout=20) == first


def test_close_interrupts_and_records_a_running_turn(tmp_path: Path) -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("never answered")
        assert gate.reached.wait(10)
    assert running.get(timeout=10).status.word == "interrupted"
    assert thread.rollout_path is not None
    assert '"turn_aborted"' in thread.rollout_path.read_text()


def test_a_cancelled_exit_still_writes_everything(tmp_path: Path) -> None:
    model = ScriptedModel()
    paths: list[Path | None] = []

    async def main() -> None:
        async with ThreadManager(tmp_path, model=model, config=ManagerConfig(close_timeout_s=30)) as manager:
            gate = model.hold()
            thread = (await manager.start_thread(Config())).thread
            await thread.submit(UserInput("kept"))
            await gate.wait_reached()
            paths.append(thread.rollout_path)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert paths[0] is not None
    assert "kept" in paths[0].read_text()
    assert '"turn_aborted"' in paths[0].read_text()


def test_stop_all_closes_the_manager(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hello").get(timeout=10)
        pykka.ActorRegistry.stop_all(timeout=20)
        assert thread.agent_status().word == "shutdown"
        with pytest.raises(UnsupportedOperation, match="closed"):
            manager.list_thread_ids()
    assert pykka.ActorRegistry.get_all() == []


def test_a_loop_closed_under_the_manager_fails_what_waits() -> None:
    model = ScriptedModel()
    model.hold()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # its tasks are destroyed while they wait, and asyncio says so
    manager = ThreadManager(model=model)
    loop.run_until_complete(manager.__aenter__())
    new = loop.run_until_complete(asyncio.wait_for(manager.start_thread(Config()), 10))
    reply = new.thread.run("never answered")
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises(InternalAgentDied):
        reply.get(timeout=10)
    # Nothing runs any more that could take the supervisor's ref out of pykka's registry.
    for ref in pykka.ActorRegistry.get_by_class(SupervisorActor):
        pykka.ActorRegistry.unregister(ref)


def test_what_was_accepted_is_written_behind_a_closed_loop(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    manager = ThreadManager(tmp_path, config=ManagerConfig(durability="memory"))
    loop.run_until_complete(manager.__aenter__())
    new = loop.run_until_complete(asyncio.wait_for(manager.start_thread(Config()), 10))
    path = new.thread.rollout_path
    assert path is not None
    assert loop.run_until_complete(asyncio.wait_for(new.thread.run("kept"), 10)).text == "echo: kept"
    loop.close()
    assert manager._opened is not None
    assert manager._opened.shared.writer.drain(10)  # as at the exit of the process
    assert '"text":"echo: kept"' in path.read_text()
    for ref in pykka.ActorRegistry.get_by_class(SupervisorActor):
        pykka.ActorRegistry.unregister(ref)


def calling(name: str) -> ScriptedModel:
    return ScriptedModel([[FunctionCall(name=name, arguments="{}", call_id="c1")]])


def test_a_sync_tool_that_never_ends_is_reported() -> None:
    began, let_go = threading.Event(), threading.Event()

    @tool
    def ignore_the_end() -> str:
        began.set()
        let_go.wait(20)
        return "late"

    config = ManagerConfig(close_timeout_s=0.2)
    with ThreadManager(model=calling("ignore_the_end"), config=config) as manager:
        thread = manager.start_thread(Config(tools=(ignore_the_end,))).get().thread
        running = thread.run("go")
        assert began.wait(10)
        report = manager.close().get(timeout=20)
    let_go.set()
    assert (report.completed, report.timed_out, report.abandoned_tools) == ((thread.thread_id,), (), 1)
    assert running.get(timeout=10).status.word == "interrupted"


def test_an_async_tool_that_swallows_its_end_is_reported() -> None:
    async def main() -> None:
        began, let_go = asyncio.Event(), asyncio.Event()

        @tool
        async def swallow() -> str:
            began.set()
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
            return "late"

        config = ManagerConfig(close_timeout_s=0.2)
        async with ThreadManager(model=calling("swallow"), config=config) as manager:
            thread = (await manager.start_thread(Config(tools=(swallow,)))).thread
            running = thread.run("go")
            await asyncio.wait_for(began.wait(), 10)
            report = await asyncio.wait_for(manager.close(), 20)
        let_go.set()
        assert (report.completed, report.timed_out, report.abandoned_tools) == ((thread.thread_id,), (), 1)
        assert (await running).status.word == "interrupted"

    asyncio.run(main())


def test_a_rollout_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    with ThreadManager(tmp_path, config=ManagerConfig(degraded_timeout_s=0.1)) as manager:
        thread = manager.start_thread(Config()).get().thread
        with pytest.raises(RolloutError):
            thread.run("lost").get(timeout=10)
        report = manager.close().get(timeout=20)
    ((path, reason),) = report.unwritten
    assert path == thread.rollout_path
    assert reason
    assert report.completed == (thread.thread_id,)


def test_a_dead_letter_is_counted_in_the_report() -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        inbox, watch = thread._actor.actor_inbox, thread.watch_status()
        thread.submit(Shutdown()).get(timeout=10)
        watch.ended().get(timeout=10)
        inbox.put(Letter("too late"))
        report = manager.close().get(timeout=20)
        assert report.dead_letters == 1
        assert manager.dead_letters[0].message == "too late"


def test_stop_all_interrupts_and_records_running_turns(tmp_path: Path) -> None:
    model = ScriptedModel()

    async def main() -> None:
        async with ThreadManager(tmp_path, model=model) as manager:
            gate = model.hold()
            thread = (await manager.start_thread(Config())).thread
            running = thread.run("never answered")
            await gate.wait_reached()
            await asyncio.wait_for(asyncio.to_thread(pykka.ActorRegistry.stop_all), 20)
            assert (await running).status.word == "interrupted"
            assert (await manager.close()).completed == (thread.thread_id,)
            assert thread.rollout_path is not None
            assert '"turn_aborted"' in thread.rollout_path.read_text()

    asyncio.run(main())


def test_a_close_cut_short_interrupts_every_turn(tmp_path: Path) -> None:
    model = ScriptedModel()
    model.hold()
    threads = []

    async def body(ready: asyncio.Event) -> None:
        async with ThreadManager(tmp_path, model=model) as manager:
            for _ in range(300):
                threads.append((await manager.start_thread(Config())).thread)
                await threads[-1].submit(UserInput("never answered"))
            ready.set()
            await asyncio.Event().wait()

    async def main() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(body(ready))
        await ready.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 60))
    texts = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert len(texts) == 300
    assert all(text.count('"turn_aborted"') == 1 for text in texts)
    assert all(thread._actor.has_ended for thread in threads)
