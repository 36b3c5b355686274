from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from codex_actors import Config, Interrupt, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput


@tool
async def double(number: int) -> int:
    """Twice the number."""
    await asyncio.sleep(0)
    return 2 * number


def answer(prompt: Any) -> Any:
    last = prompt.input[-1]
    if isinstance(last, FunctionCallOutput):
        return f"it is {last.output}"
    if last.text == "double 21":
        return [FunctionCall(name="double", arguments='{"number": 21}', call_id="c1")]
    return f"echo: {last.text}"


async def journey(home: Path) -> None:
    model = ScriptedModel(answer)
    config = Config(tools=(double,))
    async with ThreadManager(home, model=model) as manager:
        thread = (await manager.start_thread(config)).thread
        assert (await thread.run("double 21")).text == "it is 42"
        gate = model.hold()
        first = thread.run("held")
        await gate.wait_reached()
        await thread.submit(UserInput("steered"))
        await thread.submit(Interrupt())
        assert (await first).status.word == "interrupted"
        gate.open()
        fork = (await manager.fork_thread(1, None, thread.thread_id)).thread
        assert (await fork.run("of the fork")).text == "echo: of the fork"
        path = thread.rollout_path
    assert path is not None
    async with ThreadManager(home, model=model) as manager:
        again = (await manager.resume_thread_from_rollout(config, path)).thread
        assert again.thread_id == thread.thread_id
        assert (await again.run("resumed")).text == "echo: resumed"


def plain(main: Any, debug: bool) -> None:
    asyncio.run(main, debug=debug)


def on_uvloop(main: Any, debug: bool) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=debug) as runner:
        runner.run(main)


def eagerly(main: Any, debug: bool) -> None:
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks need Python 3.12")

    def make() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    with asyncio.Runner(loop_factory=make, debug=debug) as runner:
        runner.run(main)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("run", [plain, on_uvloop, eagerly])
def test_the_journey_runs_on_each_kind_of_loop(run: Callable[[Any, bool], None], debug: bool, tmp_path: Path) -> None:
    run(asyncio.wait_for(journey(tmp_path), 20) if sys.version_info >= (3, 13) else journey(tmp_path), debug)


def test_sync_code_calls_from_eight_os_threads() -> None:
    texts: list[str | None] = []
    with ThreadManager() as manager:

        def work(name: str) -> None:
            thread = manager.start_thread(Config()).get().thread
            texts.append(thread.run(name).get(timeout=10).text)

        workers = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(10)
    assert sorted(text or "" for text in texts) == [f"echo: {number}" for number in range(8)]


def test_a_foreign_loop_awaits_a_reply() -> None:
    with ThreadManager() as manager:

        async def foreign() -> str | None:
            thread = (await manager.start_thread(Config())).thread
            result = await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(thread.run("far"))), 10)
            return result.text

        assert asyncio.run(foreign()) == "echo: far"


def test_a_blocking_get_elsewhere_leaves_the_loop_free() -> None:
    model = ScriptedModel()
    gate = model.hold()

    async def main() -> None:
        beats = 0
        async with ThreadManager(model=model) as manager:
            thread = (await manager.start_thread(Config())).thread
            waiting = asyncio.create_task(asyncio.to_thread(lambda: thread.run("x").get(timeout=10)))
            await gate.wait_reached()
            for _ in range(100):
                await asyncio.sleep(0)
                beats += 1
            assert not waiting.done()
            gate.open()
            assert (await waiting).text == "echo: x"
        assert beats == 100

    asyncio.run(main())


def test_a_refused_task_fails_its_turn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ThreadManager() as manager:
            thread = (await manager.start_thread(Config())).thread
            await thread.run("first")

            def refuse(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
                raise RuntimeError("no more tasks")

            loop.set_task_factory(refuse)
            failed = await thread.run("second")
            loop.set_task_factory(None)
            assert failed.error == "the turn task could not be started: no more tasks"
            assert (await thread.run("third")).text == "echo: third"

    asyncio.run(main())
