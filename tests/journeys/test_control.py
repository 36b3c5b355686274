from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from codex_actors import (
    AgentControl,
    Config,
    NewThread,
    Resumed,
    ScriptedModel,
    Shutdown,
    ThreadId,
    ThreadManager,
    tool,
)
from codex_actors.errors import AgentDepthLimitReached, AgentLimitReached, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.events import UserMessage
from codex_actors.protocol.history import SubAgentSource
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message
from codex_actors.protocol.status import AgentStatus
from codex_actors.tools.tool import ToolContext

WAIT_S = 10.0
UNKNOWN = ThreadId("0193b5b8-0000-7000-8000-000000000001")
DROPPED = "unsupported operation: thread manager dropped"


def dialogue(prompt: Any) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text for text in texts if not text.startswith("<environment_context>")]


def calls_of(control: AgentControl) -> list[Any]:
    return [
        lambda: control.spawn_agent(Config(), "hi"),
        lambda: control.send_input(UNKNOWN, "hi"),
        lambda: control.interrupt_agent(UNKNOWN),
        lambda: control.shutdown_agent(UNKNOWN),
        lambda: control.subscribe_status(UNKNOWN),
    ]


def start(manager: ThreadManager, config: Config | None = None) -> NewThread:
    return manager.start_thread(config or Config()).get(timeout=WAIT_S)


@pytest.mark.parametrize("how", ["closed", "dropped", "never had one"])
def test_commands_error_when_manager_dropped(how: str) -> None:
    control = AgentControl(None, None)
    if how == "closed":
        with ThreadManager.for_testing(ScriptedModel()) as manager:
            control = manager.agent_control()
    elif how == "dropped":
        held = ThreadManager.for_testing(ScriptedModel()).__enter__()
        control = held.agent_control()
        del held
        gc.collect()
    for call in calls_of(control):
        with pytest.raises(UnsupportedOperation) as caught:
            call().get(timeout=WAIT_S)
        assert str(caught.value) == DROPPED
    assert control.get_status(UNKNOWN).get(timeout=WAIT_S) == AgentStatus.NOT_FOUND


def test_commands_error_when_thread_missing() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        for call in calls_of(manager.agent_control())[1:]:
            with pytest.raises(ThreadNotFound) as caught:
                call().get(timeout=WAIT_S)
            assert str(caught.value) == f"no thread with id: {UNKNOWN}"
        assert manager.agent_control().get_status(UNKNOWN).get(timeout=WAIT_S) == AgentStatus.NOT_FOUND


def test_get_status_returns_pending_init_for_new_thread() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager)
        assert manager.agent_control().get_status(new.thread_id).get(timeout=WAIT_S) == AgentStatus.PENDING_INIT
        assert new.thread.watch_status().version == 0


def test_subscribe_status_updates_on_shutdown() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager)
        control = manager.agent_control()
        watch = control.subscribe_status(new.thread_id).get(timeout=WAIT_S)
        assert watch.status == AgentStatus.PENDING_INIT
        changed = watch.changed()
        new.thread.submit(Shutdown()).get(timeout=WAIT_S)
        assert changed.get(timeout=WAIT_S) == AgentStatus.SHUTDOWN == watch.status
        assert watch.ended().get(timeout=WAIT_S).thread_id == new.thread_id


def test_send_input_submits_user_message() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager)
        stream = new.thread.events()
        submission_id = manager.agent_control().send_input(new.thread_id, "hello").get(timeout=WAIT_S)
        stream.next_blocking(WAIT_S)
        event = stream.next_blocking(WAIT_S)
    assert event is not None
    assert event.id == submission_id
    assert event.msg == UserMessage(message="hello")


def test_spawn_agent_creates_thread_and_sends_prompt() -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        thread_id = control.spawn_agent(Config(), ["do", "it"]).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == [thread_id]
        assert control.get_status(thread_id).get(timeout=WAIT_S) == AgentStatus.RUNNING
        watch = control.subscribe_status(thread_id).get(timeout=WAIT_S)
        gate.open()
        done = watch.until(lambda status: status.word == "completed").get(timeout=WAIT_S)
    assert done == AgentStatus.completed("echo: doit")
    assert dialogue(model.prompts[0]) == ["doit"]


def test_interrupt_agent_aborts_its_turn() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        thread_id = control.spawn_agent(Config(), "long").get(timeout=WAIT_S)
        watch = control.subscribe_status(thread_id).get(timeout=WAIT_S)
        assert control.interrupt_agent(thread_id).get(timeout=WAIT_S)
        assert watch.until(lambda status: status == AgentStatus.INTERRUPTED).get(timeout=WAIT_S)
        gate.open()


def test_shutdown_agent_answers_after_the_end() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        control = manager.agent_control()
        new = start(manager)
        ended = control.shutdown_agent(new.thread_id).get(timeout=WAIT_S)
        assert (ended.thread_id, ended.reason) == (new.thread_id, "shutdown")
        assert new.thread.agent_status() == AgentStatus.SHUTDOWN
        assert control.get_status(new.thread_id).get(timeout=WAIT_S) == AgentStatus.NOT_FOUND
        with pytest.raises(ThreadNotFound):
            control.shutdown_agent(new.thread_id).get(timeout=WAIT_S)


def test_two_shutdowns_are_answered_alike() -> None:
    async def main() -> None:
        async with ThreadManager.for_testing(ScriptedModel()) as manager:
            new = await manager.start_thread(Config())
            control = manager.agent_control()
            first, second = control.shutdown_agent(new.thread_id), control.shutdown_agent(new.thread_id)
            one, other = await asyncio.wait_for(asyncio.gather(first, second), WAIT_S)
            assert one == other

    asyncio.run(main())


# --- limits ------------------------------------------------------------------------------------------------------------


def test_spawn_agent_respects_max_agents() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        config = Config(max_agents=2)
        ids = [control.spawn_agent(config, f"{number}").get(timeout=WAIT_S) for number in range(2)]
        with pytest.raises(AgentLimitReached) as caught:
            control.spawn_agent(config, "one too many").get(timeout=WAIT_S)
        assert (caught.value.max_agents, caught.value.used) == (2, 2)
        assert str(caught.value).startswith("agent thread limit reached (max 2)")
        assert manager.list_thread_ids().get(timeout=WAIT_S) == ids
        gate.open()


def test_permit_comes_back_when_a_turn_ends() -> None:
    model = ScriptedModel()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        config = Config(max_agents=1)
        for number in range(3):
            thread_id = control.spawn_agent(config, f"{number}").get(timeout=WAIT_S)
            watch = control.subscribe_status(thread_id).get(timeout=WAIT_S)
            watch.until(lambda status: status.word == "completed").get(timeout=WAIT_S)


def test_permit_comes_back_after_shutdown() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        config = Config(max_agents=1)
        thread_id = control.spawn_agent(config, "long").get(timeout=WAIT_S)
        with pytest.raises(AgentLimitReached):
            control.spawn_agent(config, "second").get(timeout=WAIT_S)
        control.shutdown_agent(thread_id).get(timeout=WAIT_S)
        control.spawn_agent(config, "third").get(timeout=WAIT_S)
        gate.open()


def test_idle_agent_needs_a_permit_to_run_again() -> None:
    model = ScriptedModel()
    with ThreadManager.for_testing(model) as manager:
        control = manager.agent_control()
        config = Config(max_agents=1)
        idle = control.spawn_agent(config, "first").get(timeout=WAIT_S)
        watch = control.subscribe_status(idle).get(timeout=WAIT_S)
        watch.until(lambda status: status.word == "completed").get(timeout=WAIT_S)
        gate = model.hold()
        control.spawn_agent(config, "second").get(timeout=WAIT_S)
        with pytest.raises(AgentLimitReached):
            control.send_input(idle, "again").get(timeout=WAIT_S)
        gate.open()


def test_limit_is_shared_along_a_tree_only() -> None:
    controls: list[AgentControl] = []

    @tool
    async def keep(context: ToolContext) -> str:
        controls.append(context.control)
        return "kept"

    call = FunctionCall(name="keep", arguments="{}", call_id="c1")
    model = ScriptedModel([[call], "done", [call], "done", "one", "two"])
    with ThreadManager.for_testing(model) as manager:
        config = Config(tools=(keep,), max_agents=1)
        for _ in range(2):
            assert start(manager, config).thread.run("hi").get(timeout=WAIT_S).text == "done"
        gate = model.hold()
        one, other = controls
        assert one is not other
        one.spawn_agent(Config(), "child").get(timeout=WAIT_S)
        with pytest.raises(AgentLimitReached, match="max 1"):
            one.spawn_agent(Config(max_agents=9), "its own limit does not count").get(timeout=WAIT_S)
        other.spawn_agent(Config(), "another tree").get(timeout=WAIT_S)
        gate.open()


def test_child_gets_the_control_of_its_root() -> None:
    controls: list[AgentControl] = []

    @tool
    async def spawn(context: ToolContext) -> str:
        controls.append(context.control)
        if len(controls) > 1:
            return "leaf"
        source = SubAgentSource(parent_thread_id=context.thread_id, depth=1)
        child = await context.control.spawn_agent(config, "child", source=source)
        watch = await context.control.subscribe_status(child)
        return str((await watch.until(lambda status: status.word == "completed")).message)

    config = Config(tools=(spawn,))

    def answer(prompt: Any) -> Any:
        outputs = [item.output for item in prompt.input if isinstance(item, FunctionCallOutput)]
        return f"got {outputs[-1]}" if outputs else [FunctionCall(name="spawn", arguments="{}", call_id="c1")]

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        result = start(manager, config).thread.run("root").get(timeout=WAIT_S)
    assert result.text == "got got leaf"
    assert controls[0].tree is controls[1].tree
    assert controls[0].thread_id != controls[1].thread_id


def test_spawn_agent_respects_max_depth() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        root = start(manager, Config(max_depth=1))
        control = root.thread._actor.control
        ok = SubAgentSource(parent_thread_id=root.thread_id, depth=1)
        deep = SubAgentSource(parent_thread_id=root.thread_id, depth=2)
        control.spawn_agent(Config(), "child", source=ok).get(timeout=WAIT_S)
        with pytest.raises(AgentDepthLimitReached) as caught:
            control.spawn_agent(Config(), "grandchild", source=deep).get(timeout=WAIT_S)
        assert (caught.value.max_depth, caught.value.depth) == (1, 2)


def test_spawn_for_a_missing_parent_starts_nothing() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        source = SubAgentSource(parent_thread_id=UNKNOWN, depth=1)
        with pytest.raises(ThreadNotFound):
            manager.agent_control().spawn_agent(Config(), "child", source=source).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []


def test_failed_spawn_gives_its_permit_back(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        control = manager.agent_control()
        config = Config(max_agents=1)
        for _ in range(3):
            with pytest.raises(Exception, match="sessions"):
                control.spawn_agent(config, "hi").get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []
        ephemeral = Config(max_agents=1, ephemeral=True)
        assert control.spawn_agent(ephemeral, "hi").get(timeout=WAIT_S)


def test_resumes_of_one_id_at_once_share_a_thread(tmp_path: Path) -> None:
    async def main() -> None:
        async with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
            old = await manager.start_thread(Config())
            await old.thread.run("u1")
            path = old.thread.rollout_path
            assert path is not None
            await manager.agent_control().shutdown_agent(old.thread_id)
            resumes = [manager.resume_thread_from_rollout(Config(), path) for _ in range(10)]
            new = await asyncio.wait_for(asyncio.gather(*resumes), WAIT_S)
            assert len({id(one.thread) for one in new}) == 1
            assert await manager.list_thread_ids() == [old.thread_id]
            history = Resumed(UNKNOWN, (), None)
            pair = await asyncio.gather(
                *(manager.resume_thread_with_history(Config(), history) for _ in range(2)),
            )
            assert pair[0].thread is pair[1].thread

    asyncio.run(main())


def test_cancelled_start_leaves_the_manager_alone() -> None:
    async def main() -> None:
        async with ThreadManager.for_testing(ScriptedModel()) as manager:
            assert manager.start_thread(Config()).cancel()
            assert manager.agent_control().spawn_agent(Config(), "hi").cancel()
            new = await manager.start_thread(Config())
            assert (await new.thread.run("still here")).text == "echo: still here"

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_spawns_at_once_keep_the_limit() -> None:
    async def main() -> None:
        model = ScriptedModel()
        gate = model.hold()
        async with ThreadManager.for_testing(model) as manager:
            control = manager.agent_control()
            spawns = [control.spawn_agent(Config(max_agents=2), str(number)) for number in range(20)]
            results = await asyncio.gather(*spawns, return_exceptions=True)
            assert sum(isinstance(result, AgentLimitReached) for result in results) == 18
            assert {info.status for info in await control.list_agents()} == {AgentStatus.RUNNING}
            gate.open()

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_inputs_at_once_keep_the_limit() -> None:
    async def main() -> None:
        model = ScriptedModel(lambda prompt: "ok")
        async with ThreadManager.for_testing(model) as manager:
            control = manager.agent_control()
            ids = []
            for number in range(8):  # one after the other: never more than one at work
                ids.append(await control.spawn_agent(Config(max_agents=2), str(number)))
                await (await control.subscribe_status(ids[-1])).until(lambda status: status.word == "completed")
            gate = model.hold()
            sent = [control.send_input(thread_id, "more") for thread_id in ids]
            results = await asyncio.gather(*sent, return_exceptions=True)
            assert sum(isinstance(result, AgentLimitReached) for result in results) == 6
            gate.open()

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_depth_is_counted_whatever_a_tool_says() -> None:
    refused: list[str] = []

    @tool
    async def nest(context: ToolContext) -> str:
        claimed = SubAgentSource(parent_thread_id=context.thread_id, depth=1)
        for source in (None, claimed):
            try:
                child = await context.control.spawn_agent(config, "deeper", source=source)
            except AgentDepthLimitReached as error:
                refused.append(str(error))
                continue
            watch = await context.control.subscribe_status(child)
            await watch.until(lambda status: status.word == "completed")
        return "nested"

    config = Config(tools=(nest,), max_depth=2)

    def answer(prompt: Any) -> Any:
        has_called = any(isinstance(item, FunctionCallOutput) for item in prompt.input)
        return "done" if has_called else [FunctionCall(name="nest", arguments="{}", call_id="c1")]

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        assert start(manager, config).thread.run("go").get(timeout=WAIT_S).text == "done"
    assert len(refused) == 8
    assert set(refused) == {str(AgentDepthLimitReached(2, 3))}


def test_status_is_not_found_once_a_close_has_begun() -> None:
    async def main() -> None:
        async with ThreadManager.for_testing(ScriptedModel()) as manager:
            new = await manager.start_thread(Config())
            asked = manager.agent_control().get_status(new.thread_id)
            manager.close()
            assert await asked in (AgentStatus.PENDING_INIT, AgentStatus.NOT_FOUND)

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
