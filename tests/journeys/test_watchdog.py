from __future__ import annotations

import threading
import time

from codex_actors import CodexThread, Config, ManagerConfig, Prompt, ScriptedModel, ThreadManager, tool
from codex_actors.protocol.events import Event, TaskComplete, Warning
from codex_actors.protocol.items import FunctionCall, ResponseItem
from codex_actors.protocol.ops import Shutdown

LIMIT_S = 0.05
BLOCK_S = 0.4


@tool
async def hog_the_loop() -> str:
    """Block the loop, as a tool must not."""
    time.sleep(BLOCK_S)  # noqa: ASYNC251
    return "done"


@tool
def take_its_time() -> str:
    """Block an OS thread, as a sync tool may."""
    time.sleep(BLOCK_S)
    return "done"


def calling(name: str) -> ScriptedModel:
    return ScriptedModel([[FunctionCall(name=name, arguments="{}", call_id="c1")], "after it"])


def run_and_end(manager: ThreadManager, thread: CodexThread) -> list[Event]:
    """All its events; the loop has come round after the block before the thread ends."""
    stream = thread.events()
    assert thread.run("go").get(timeout=20).text is not None
    came_round = threading.Event()
    assert manager._opened is not None
    manager._opened.shared.pump.post(came_round.set)
    assert came_round.wait(10)
    thread.submit(Shutdown()).get(timeout=10)
    return list(stream)


def warnings_of(events: list[Event]) -> list[str]:
    return [event.msg.message for event in events if isinstance(event.msg, Warning)]


def test_a_tool_that_blocks_the_loop_is_named() -> None:
    config = ManagerConfig(block_warning_s=LIMIT_S)
    with ThreadManager(model=calling("hog_the_loop"), config=config) as manager:
        thread = manager.start_thread(Config(tools=(hog_the_loop,))).get().thread
        other = manager.start_thread(Config()).get().thread
        elsewhere = other.events()
        events = run_and_end(manager, thread)
        (text,) = warnings_of(events)
        other.submit(Shutdown()).get(timeout=10)
        assert warnings_of(list(elsewhere)) == []
    first, *stack = text.splitlines()
    assert first == (
        f"the event loop was blocked for more than {LIMIT_S:g} s by tool hog_the_loop of thread {thread.thread_id}:"
    )
    assert any("in hog_the_loop" in line for line in stack)
    assert any("time.sleep(BLOCK_S)" in line for line in stack)
    assert sum(isinstance(event.msg, TaskComplete) for event in events) == 1


def test_a_removed_thread_is_warned_too() -> None:
    config = ManagerConfig(block_warning_s=LIMIT_S)
    with ThreadManager(model=calling("hog_the_loop"), config=config) as manager:
        thread = manager.start_thread(Config(tools=(hog_the_loop,))).get().thread
        manager.remove_thread(thread.thread_id).get()
        assert len(warnings_of(run_and_end(manager, thread))) == 1


def test_a_model_that_blocks_is_named_by_its_thread() -> None:
    def answer(prompt: Prompt) -> list[ResponseItem] | str:
        time.sleep(BLOCK_S)
        return "late"

    config = ManagerConfig(block_warning_s=LIMIT_S)
    with ThreadManager(model=ScriptedModel(answer), config=config) as manager:
        thread = manager.start_thread(Config()).get().thread
        (text,) = warnings_of(run_and_end(manager, thread))
    assert f"of thread {thread.thread_id}" in text.splitlines()[0]
    assert "in answer" in text


def test_a_sync_tool_that_blocks_is_no_matter() -> None:
    config = ManagerConfig(block_warning_s=0.2)
    with ThreadManager(model=calling("take_its_time"), config=config) as manager:
        thread = manager.start_thread(Config(tools=(take_its_time,))).get().thread
        assert warnings_of(run_and_end(manager, thread)) == []


def test_a_limit_of_zero_turns_the_watch_off() -> None:
    config = ManagerConfig(block_warning_s=0)
    with ThreadManager(model=calling("hog_the_loop"), config=config) as manager:
        thread = manager.start_thread(Config(tools=(hog_the_loop,))).get().thread
        assert warnings_of(run_and_end(manager, thread)) == []
        assert "codex_actors-watchdog" not in {os_thread.name for os_thread in threading.enumerate()}


def test_an_idle_manager_has_no_watchdog() -> None:
    with ThreadManager() as manager:
        manager.start_thread(Config()).get()
        assert "codex_actors-watchdog" not in {os_thread.name for os_thread in threading.enumerate()}
