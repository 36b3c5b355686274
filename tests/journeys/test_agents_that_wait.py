from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from codex_actors import AgentStatus, CodexThread, Config, Prompt, ScriptedModel, ThreadManager, tool
from codex_actors.model.scripted import Gate
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem
from codex_actors.protocol.status import is_final
from codex_actors.rollout.truncation import is_user_message
from codex_actors.testing import no_leaks
from codex_actors.tools.agents import agent_tools
from codex_actors.tools.tool import ToolContext

T = TypeVar("T")

LIMIT_S = 30.0
CONFIG = Config(tools=agent_tools())


def task_of(prompt: Prompt) -> str:
    return next(item.text for item in prompt.input if isinstance(item, Message) and is_user_message(item))


def outputs(items: Sequence[ResponseItem]) -> list[Any]:
    texts = [str(item.output) for item in items if isinstance(item, FunctionCallOutput)]
    return [json.loads(text) if text.startswith("{") else text for text in texts]


def call(name: str, **arguments: Any) -> list[ResponseItem]:
    return [FunctionCall(call_id=f"call-{name}", name=name, arguments=json.dumps(arguments))]


def run(journey: Callable[[], Awaitable[T]]) -> T:
    """A journey that hangs fails, and so does one that leaves something behind."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await journey()

    with no_leaks():
        return asyncio.run(limited())


def leading(prompt: Prompt, task: str) -> str | list[ResponseItem]:
    """Spawn an agent, wait for it, give its status."""
    seen = outputs(prompt.input)
    if not seen:
        return call("spawn_agent", message=task)
    if len(seen) == 1:
        return call("wait_agent", targets=[seen[0]["agent_id"]], timeout_ms=int(LIMIT_S * 1000))
    return json.dumps(seen[1]["status"][seen[0]["agent_id"]])


def test_sixty_four_roots_spawn_at_once() -> None:
    def answer(prompt: Prompt) -> str | list[ResponseItem]:
        task = task_of(prompt)
        return leading(prompt, f"for {task}") if task.startswith("root") else f"done {task}"

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            roots = [(await manager.start_thread(CONFIG)).thread for _ in range(64)]
            results = await asyncio.gather(*(root.run(f"root {number}") for number, root in enumerate(roots)))
            texts = [json.loads(result.text or "") for result in results]
            assert texts == [{"completed": f"done for root {number}"} for number in range(64)]

    run(main)


def test_child_that_closes_its_parent_ends_both() -> None:
    def answer(prompt: Prompt) -> str | list[ResponseItem]:
        task = task_of(prompt)
        return leading(prompt, prompt.thread_id) if task == "root" else call("close_agent", target=task)

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            result = await root.run("root")
            assert result.status == AgentStatus.INTERRUPTED
            assert (await root.watch_status().ended()).reason == "shutdown"
            while await manager.list_thread_ids():
                pass
            assert manager.dead_letters == ()

    run(main)


def test_wait_for_oneself_is_refused_at_once() -> None:
    def answer(prompt: Prompt) -> str | list[ResponseItem]:
        seen = outputs(prompt.input)
        return seen[0] if seen else call("wait_agent", targets=[prompt.thread_id], timeout_ms=3_600_000)

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            assert (await root.run("root")).text == "an agent cannot wait for itself"

    run(main)


def test_child_that_waits_for_its_parent_is_let_go() -> None:
    def answer(prompt: Prompt) -> str | list[ResponseItem]:
        task = task_of(prompt)
        if task == "root":
            return leading(prompt, prompt.thread_id)
        seen = outputs(prompt.input)
        return json.dumps(seen[0]) if seen else call("wait_agent", targets=[task], mode="all", timeout_ms=50)

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            told = json.loads((await root.run("root")).text or "")
            assert json.loads(told["completed"]) == {"status": {root.thread_id: "running"}, "timed_out": True}

    run(main)


async def begun(manager: ThreadManager, gate: Gate) -> tuple[CodexThread, Any]:
    root = (await manager.start_thread(CONFIG)).thread
    running = root.run("root")
    await gate.wait_reached()
    await manager.list_thread_ids()  # the wait of the root has begun
    return root, running


def test_dropped_manager_ends_a_turn_that_waits() -> None:
    gate = Gate()

    async def answer(prompt: Prompt) -> str | list[ResponseItem]:
        if task_of(prompt) == "root":
            return leading(prompt, "child")
        await gate.pass_through()
        return "never"

    async def main() -> None:
        manager = ThreadManager(model=ScriptedModel(answer))
        await manager.__aenter__()
        root, running = await begun(manager, gate)
        child_id = (await manager.list_thread_ids())[1]
        child = (await manager.get_thread(child_id)).watch_status()
        del manager
        assert (await running).status == AgentStatus.INTERRUPTED
        assert (await root.watch_status().ended()).reason == "shutdown"
        assert (await child.ended()).reason == "shutdown"

    run(main)
    gc.collect()


def test_closed_manager_ends_a_turn_that_waits() -> None:
    gate = Gate()

    async def answer(prompt: Prompt) -> str | list[ResponseItem]:
        if task_of(prompt) == "root":
            return leading(prompt, "child")
        await gate.pass_through()
        return "never"

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            _, running = await begun(manager, gate)
            report = await manager.close()
            assert (await running).status == AgentStatus.INTERRUPTED
        assert (len(report.completed), report.timed_out, report.abandoned_tools, report.dead_letters) == (2, (), 0, 0)

    run(main)


def test_sixty_four_sync_tools_wait_for_sync_tools() -> None:
    # Only 32 sync tools work at once, and here 128 wait for 64 that work: those that wait give their places away.
    begun = []
    everyone = asyncio.Event()

    @tool
    def work(context: ToolContext) -> str:
        return f"worked {context.thread_id}"

    @tool
    def delegate(context: ToolContext, depth: int) -> str:
        task = "leaf" if depth == 0 else f"middle {depth - 1}"
        agent_id = context.control.spawn_agent(config, task).get(timeout=LIMIT_S)
        watch = context.control.subscribe_status(agent_id).get(timeout=LIMIT_S)
        return str(watch.until(is_final).get(timeout=LIMIT_S).message)

    config = Config(tools=(work, delegate), max_agents=1_000)

    async def answer(prompt: Prompt) -> str | list[ResponseItem]:
        seen, task = outputs(prompt.input), task_of(prompt)
        if seen:
            return str(seen[0])
        if task != "leaf":
            return call("delegate", depth=int(task.split()[1]))
        begun.append(prompt.thread_id)
        if len(begun) == 64:
            everyone.set()
        await everyone.wait()  # no leaf works before all of them wait for it to
        return call("work")

    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(answer)) as manager:
            roots = [(await manager.start_thread(config)).thread for _ in range(64)]
            results = await asyncio.gather(*(root.run("root 1") for root in roots))
            assert {result.text for result in results} == {f"worked {thread_id}" for thread_id in begun}

    run(main)
