from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ScriptedModel, Shutdown, ThreadManager, UserInput, tool
from codex_actors.actors.turn_task import TurnEnded
from codex_actors.errors import InternalAgentDied, TurnInterrupted
from codex_actors.model.provider import ItemDone, ModelEvent, TextDelta
from codex_actors.protocol.events import Event, ShutdownComplete, TaskComplete, TurnAborted
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, OutputText
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.streams import EventStream

WAIT_S = 10.0
CALL = FunctionCall(name="wait", arguments="{}", call_id="c1")
ABORTED = FunctionCallOutput(call_id="c1", output="aborted by user")


def turn_of(stream: EventStream) -> list[Event]:
    events: list[Event] = []
    while not events or not isinstance(events[-1].msg, TaskComplete | TurnAborted):
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        events.append(event)
    return events


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def call_ids(lines: list[dict[str, Any]], kind: str) -> list[str]:
    return [line["payload"]["call_id"] for line in lines if line["payload"].get("type") == kind]


def test_interrupt_of_async_tool_closes_its_call() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    @tool
    async def wait() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    model = ScriptedModel([[CALL], "fine"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(wait,))).get().thread
        stream = thread.events()
        running = thread.run("hi")
        assert begun.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        result = running.get(timeout=WAIT_S)
        assert cancelled.wait(WAIT_S)
        events = turn_of(stream)
        lines = lines_of(thread.rollout_path)
        assert thread.run("go on").get(timeout=WAIT_S).text == "fine"
    assert result.items == (CALL, ABORTED)
    assert events[-1].msg == TurnAborted(turn_id=result.turn_id, reason="interrupted")
    assert [event.msg.type for event in events].count("turn_aborted") == 1
    assert call_ids(lines, "function_call") == call_ids(lines, "function_call_output") == ["c1"]
    assert ABORTED in model.prompts[1].input


def test_interrupt_does_not_wait_for_sync_tool() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    @tool
    def wait() -> str:
        begun.set()
        release.wait(WAIT_S)
        ended.set()
        return "late"

    model = ScriptedModel([[CALL], "fine"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(wait,))).get().thread
        running = thread.run("hi")
        assert begun.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        result = running.get(timeout=WAIT_S)
        assert not ended.is_set()
        release.set()
        assert ended.wait(WAIT_S)
        assert thread.run("go on").get(timeout=WAIT_S).text == "fine"
        lines = lines_of(thread.rollout_path)
    assert result.items == (CALL, ABORTED)
    assert call_ids(lines, "function_call_output") == ["c1"]


def test_interrupt_closes_calls_that_never_began() -> None:
    begun = threading.Event()

    @tool
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    calls = [FunctionCall(name="wait", arguments="{}", call_id=f"c{number}") for number in range(3)]
    with ThreadManager.for_testing(ScriptedModel([calls])) as manager:
        thread = manager.start_thread(Config(tools=(wait,))).get().thread
        running = thread.run("hi")
        assert begun.wait(WAIT_S)
        running.cancel()
        running.get(timeout=WAIT_S)
        lines = lines_of(thread.rollout_path)
    assert call_ids(lines, "function_call") == call_ids(lines, "function_call_output") == ["c0", "c1", "c2"]


def test_interrupt_in_stream_drops_the_unfinished_item() -> None:
    model = ScriptedModel(["half an answer", "fine"], keep_prompts=True)
    gate = model.hold(after="deltas")
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        running = thread.run("hi")
        assert gate.reached.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        result = running.get(timeout=WAIT_S)
        gate.open()
        events = turn_of(stream)
        lines = lines_of(thread.rollout_path)
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
        assert thread.agent_status() == AgentStatus.completed("fine")
    assert result.items == ()
    assert result.text is None
    with pytest.raises(TurnInterrupted):
        result.raise_for_error()
    assert events[-1].msg == TurnAborted(turn_id=result.turn_id, reason="interrupted")
    assert lines[-1]["payload"]["type"] == "turn_aborted"
    assert "half an answer" not in str(model.prompts[1].input)


def test_interrupt_keeps_items_that_were_whole() -> None:
    told = threading.Event()
    closed = threading.Event()
    whole = Message(role="assistant", content=(OutputText(text="whole"),))

    async def answer(prompt: Any) -> AsyncIterator[ModelEvent]:
        try:
            yield ItemDone(whole)
            told.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("hi")
        assert told.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        result = running.get(timeout=WAIT_S)
        assert closed.wait(WAIT_S)
    assert result.items == (whole,)
    assert result.status == AgentStatus.INTERRUPTED


def test_interrupt_on_idle_thread_does_nothing() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert thread.agent_status() == AgentStatus.PENDING_INIT
        thread.run("hi").get(timeout=WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert thread.agent_status() == AgentStatus.completed("echo: hi")
        thread.submit(Shutdown()).get(timeout=WAIT_S)
        kinds = [event.msg.type for event in stream]
        lines = lines_of(thread.rollout_path)
    assert kinds[0] == "task_started"
    assert kinds[-2:] == ["task_complete", "shutdown_complete"]
    assert "turn_aborted" not in str(lines)


def test_second_interrupt_does_nothing_more() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        running = thread.run("hi")
        assert gate.reached.wait(WAIT_S)
        for reply in [thread.submit(Interrupt()) for _ in range(3)]:
            reply.get(timeout=WAIT_S)
        running.get(timeout=WAIT_S)
        thread.submit(Shutdown()).get(timeout=WAIT_S)
        kinds = [event.msg.type for event in stream]
        gate.open()
    assert kinds == ["task_started", "user_message", "turn_aborted", "shutdown_complete"]


def test_cancel_of_a_run_interrupts_its_turn() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("hi")
        assert gate.reached.wait(WAIT_S)
        assert running.cancel()
        assert running.get(timeout=WAIT_S).status == AgentStatus.INTERRUPTED
        assert not running.cancel()
        gate.open()
        later = thread.run("again")
        running.cancel()
        assert later.get(timeout=WAIT_S).text == "echo: again"


def test_cancel_of_a_waiter_leaves_the_turn() -> None:
    async def main() -> None:
        model = ScriptedModel()
        gate = model.hold()
        async with ThreadManager.for_testing(model) as manager:
            thread = (await manager.start_thread(Config())).thread
            running = thread.run("hi")

            async def wait() -> Any:
                return await running

            waiter = asyncio.create_task(wait())
            await gate.wait_reached()
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(), 0.01)
            gate.open()
            assert (await asyncio.wait_for(wait(), WAIT_S)).text == "echo: hi"

    asyncio.run(main())


def test_shutdown_in_a_turn_aborts_it_first() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream, watch = thread.events(), thread.watch_status()
        running = thread.run("hi")
        assert gate.reached.wait(WAIT_S)
        thread.submit(Shutdown()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status == AgentStatus.INTERRUPTED
        assert watch.ended().get(timeout=WAIT_S).reason == "shutdown"
        events = list(stream)
        gate.open()
        with pytest.raises(InternalAgentDied):
            thread.submit(Interrupt()).get(timeout=WAIT_S)
        with pytest.raises(InternalAgentDied):
            thread.run("too late").get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []
    assert [event.msg.type for event in events[-2:]] == ["turn_aborted", "shutdown_complete"]
    assert isinstance(events[-1].msg, ShutdownComplete)
    assert thread.agent_status() == AgentStatus.SHUTDOWN


def test_close_interrupts_and_records_running_turns(tmp_path: Path) -> None:
    model = ScriptedModel()
    gate = model.hold()
    manager = ThreadManager.for_testing(model, codex_home=tmp_path)
    with manager:
        threads = [manager.start_thread(Config()).get().thread for _ in range(5)]
        running = [thread.run("hi") for thread in threads]
        assert gate.reached.wait(WAIT_S)
        report = manager.close().get(timeout=WAIT_S)
    assert list(report.completed) == sorted(thread.thread_id for thread in threads)
    assert report.timed_out == ()
    assert {reply.get().status for reply in running} == {AgentStatus.INTERRUPTED}
    for thread in threads:
        assert lines_of(thread.rollout_path)[-1]["payload"]["type"] == "turn_aborted"


def test_interrupt_behind_the_end_of_a_turn_drops_no_deltas() -> None:
    async def main() -> list[str]:
        model = ScriptedModel(["never"])
        gate = model.hold()
        async with ThreadManager.for_testing(model) as manager:
            thread = (await manager.start_thread(Config())).thread
            stream = thread.events()
            turn_id = await thread.submit(UserInput("hi"))
            actor = thread._actor
            for step in (TextDelta("all"), TextDelta(" of it"), TurnEnded(None)):  # they wait when the interrupt comes
                actor.actor_inbox.put_step(actor, (turn_id, step))
            actor.interrupt()
            gate.open()
            kinds = []
            async for event in stream:
                kinds.append(event.msg.type)
                if event.msg.type == "task_complete":
                    return kinds
        raise AssertionError("the turn did not complete")

    assert asyncio.run(main())[-3:] == ["agent_message_delta", "agent_message_delta", "task_complete"]
