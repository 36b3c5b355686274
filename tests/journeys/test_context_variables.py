from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from codex_actors import Config, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message
from codex_actors.tools.tool import ToolContext

WAIT_S = 10.0
CLIENT: contextvars.ContextVar[str] = contextvars.ContextVar("CLIENT", default="nobody")


@tool
def who_sync() -> str:
    return CLIENT.get()


@tool
async def who_async() -> str:
    return CLIENT.get()


def asks(name: str) -> Any:
    """A model that calls the tool once, then says what it answered."""

    def answer(prompt: Any) -> Any:
        newest = prompt.input[-2:]  # behind the output of a spawn stands what its child has to say
        outputs = [item.output for item in newest if isinstance(item, FunctionCallOutput)]
        if outputs and not (isinstance(newest[-1], Message) and newest[-1].text == "who am I?"):
            return outputs[-1]
        return [FunctionCall(name=name, arguments="{}", call_id="c1")]

    return answer


async def as_client(name: str, thread: Any) -> str:
    CLIENT.set(name)
    return str((await asyncio.wait_for(_of(thread.run("who am I?")), WAIT_S)).text)


async def _of(reply: Any) -> Any:
    return await reply


@pytest.mark.parametrize("name", ["who_sync", "who_async"])
def test_tool_sees_the_variables_of_its_submit(name: str) -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(asks(name))) as manager:
            new = [await manager.start_thread(Config(tools=(who_sync, who_async))) for _ in range(20)]
            clients = [asyncio.create_task(as_client(f"client {i}", one.thread)) for i, one in enumerate(new)]
            assert await asyncio.gather(*clients) == [f"client {i}" for i in range(20)]
            assert CLIENT.get() == "nobody"

    asyncio.run(main())


def test_same_thread_sees_each_client_in_turn() -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(asks("who_async"))) as manager:
            thread = (await manager.start_thread(Config(tools=(who_sync, who_async)))).thread
            for name in ("one", "two", "one"):
                assert await asyncio.create_task(as_client(name, thread)) == name

    asyncio.run(main())


def test_steered_input_does_not_change_a_running_turn() -> None:
    model = ScriptedModel(asks("who_async"))
    gate = model.hold()
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(who_async,))).get().thread
        first = contextvars.copy_context()
        first.run(CLIENT.set, "first")
        running = first.run(thread.run, "who?")
        assert gate.reached.wait(WAIT_S)
        second = contextvars.copy_context()
        second.run(CLIENT.set, "second")
        second.run(thread.submit, UserInput("me too")).get(timeout=WAIT_S)
        gate.open()
        assert running.get(timeout=WAIT_S).text == "first"


def test_leftover_runs_in_the_context_of_its_sender() -> None:
    seen: list[str] = []

    def answer(prompt: Any) -> str:
        seen.append(CLIENT.get())
        return "done"

    model = ScriptedModel(answer)
    gate = model.hold()
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        one, two = contextvars.copy_context(), contextvars.copy_context()
        one.run(CLIENT.set, "one")
        two.run(CLIENT.set, "two")
        first = one.run(thread.run, "a")
        assert gate.reached.wait(WAIT_S)
        second = two.run(thread.run, "b")
        gate.open()
        first.get(timeout=WAIT_S)
        second.get(timeout=WAIT_S)
    assert seen == ["one", "two"]


def test_variables_of_the_entering_client_do_not_leak() -> None:
    async def main() -> str:
        token = CLIENT.set("who entered")
        async with ThreadManager(model=ScriptedModel(asks("who_async"))) as manager:
            CLIENT.reset(token)
            thread = (await manager.start_thread(Config(tools=(who_async,)))).thread
            return str((await thread.run("hi")).text)

    assert asyncio.run(main()) == "nobody"


def test_what_a_tool_sets_stays_in_its_turn() -> None:
    @tool
    async def become() -> str:
        CLIENT.set("the tool")
        return CLIENT.get()

    with ThreadManager(model=ScriptedModel(asks("become"))) as manager:
        thread = manager.start_thread(Config(tools=(become,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "the tool"
        other = manager.start_thread(Config(tools=(who_async,))).get().thread
        assert CLIENT.get() == "nobody"
        model_of_other = ScriptedModel(asks("who_async"))
        assert other.agent_status().word == "pending_init"
    with ThreadManager(model=model_of_other) as manager:
        thread = manager.start_thread(Config(tools=(who_async,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "nobody"


def test_child_inherits_the_context_of_its_parents_turn() -> None:
    @tool
    async def spawn(context: ToolContext) -> str:
        child = await context.control.spawn_agent(Config(tools=(who_async,)), "who?")
        watch = await context.control.subscribe_status(child)
        return str((await watch.until(lambda status: status.word == "completed")).message)

    def answer(prompt: Any) -> Any:
        return asks(prompt.tools[0]["name"])(prompt)

    with ThreadManager(model=ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config(tools=(spawn,))).get().thread
        client = contextvars.copy_context()
        client.run(CLIENT.set, "the parent's client")
        assert client.run(thread.run, "hi").get(timeout=WAIT_S).text == "the parent's client"
