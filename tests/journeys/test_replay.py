from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from codex_actors import (
    CodexThread,
    Config,
    Interrupt,
    ManagerConfig,
    Prompt,
    Reply,
    ScriptedModel,
    ThreadManager,
    tool,
)
from codex_actors.errors import CodexError
from codex_actors.protocol.events import EVENT_MSG
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.protocol.ops import ThreadRollback
from codex_actors.runtime.clock import SimulatedClock
from codex_actors.testing import VirtualLoop
from codex_actors.turn import TurnResult

T = TypeVar("T")

OPERATIONS = 240
THREADS = 24


@tool
async def look(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"looked for {seconds} s"


def manager_with(clock: SimulatedClock, model: ScriptedModel) -> ThreadManager:
    config = ManagerConfig(clock=clock, durability="memory", turn_timeout_s=3600, block_warning_s=0)
    return ThreadManager(model=model, config=config)


class Program:
    def __init__(self, seed: int, clock: SimulatedClock) -> None:
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.threads: list[CodexThread] = []
        self.readers: list[asyncio.Task[None]] = []
        self.replies: list[Reply[Any]] = []
        self.manager = manager_with(clock, ScriptedModel(self.answer, delta_chars=8))

    async def answer(self, prompt: Prompt) -> Any:
        await asyncio.sleep(self.random.choice((0, 0, 0.01, 1, 30)))
        called = isinstance(prompt.input[-1], FunctionCallOutput)
        if not called and self.random.random() < 0.4:
            arguments = f'{{"seconds": {self.random.randrange(3)}}}'
            return [FunctionCall(name="look", call_id=f"call-{self.random.getrandbits(32)}", arguments=arguments)]
        if self.random.random() < 0.05:
            raise CodexError("the model has a bad day")
        return "word " * self.random.randrange(1, 12)

    async def run(self) -> list[str]:
        async with self.manager:
            for _ in range(8):
                self.follow((await self.manager.start_thread(Config(tools=(look,)))).thread)
            for _ in range(OPERATIONS):
                await self.operate()
            for reply in self.replies:
                self.trace.append(await outcome(reply))
            self.trace.append(str(await self.manager.list_thread_ids()))
        await asyncio.gather(*self.readers)
        return self.trace

    async def operate(self) -> None:
        choice = self.random.random()
        thread = self.random.choice(self.threads)
        if choice < 0.5:
            self.replies.append(thread.run(f"input {len(self.replies)}"))
        elif choice < 0.7:
            self.replies.append(thread.submit(Interrupt()))
        elif choice < 0.75:
            self.replies.append(thread.submit(ThreadRollback(num_turns=1)))
        elif choice < 0.85 and len(self.threads) < THREADS:
            nth = self.random.choice((None, 0, 1, 2))
            self.follow((await self.manager.fork_thread(nth, Config(tools=(look,)), thread.thread_id)).thread)
        else:
            await asyncio.sleep(self.random.choice((0, 0.005, 2)))

    def follow(self, thread: CodexThread) -> None:
        self.threads.append(thread)
        self.readers.append(asyncio.create_task(self.read(thread)))

    async def read(self, thread: CodexThread) -> None:
        stream = thread.events()
        async for event in stream:
            msg = EVENT_MSG.dump_json(event.msg, exclude_none=True).decode()
            self.trace.append(f"{thread.thread_id} {event.id} {msg}")
        self.trace.append(str(stream.ended))


async def outcome(reply: Reply[Any]) -> str:
    try:
        value = await reply
    except CodexError as error:
        return repr(error)
    if isinstance(value, TurnResult):
        return f"{value.turn_id} {value.status} {value.text} {value.error}"
    return str(value)


def virtually(clock: SimulatedClock, coroutine: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop(clock)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def trace_of(seed: int) -> list[str]:
    clock = SimulatedClock(seed)
    return virtually(clock, Program(seed, clock).run())


def in_process(seed: int, hash_seed: str) -> list[str]:
    command = [sys.executable, str(Path(__file__)), str(seed)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


async def who_speaks(clock: SimulatedClock) -> list[int]:
    speakers: list[int] = []

    async def read(index: int, thread: CodexThread) -> None:
        async for _ in thread.events():
            speakers.append(index)

    async with manager_with(clock, ScriptedModel()) as manager:
        threads = [(await manager.start_thread(Config())).thread for _ in range(8)]
        readers = [asyncio.create_task(read(index, thread)) for index, thread in enumerate(threads)]
        await asyncio.gather(*(thread.run("hello") for thread in threads))
    await asyncio.gather(*readers)
    return speakers


async def never(_: Prompt) -> str:
    return await asyncio.get_running_loop().create_future()


async def wait_for_nothing(clock: SimulatedClock) -> tuple[str | None, float]:
    async with manager_with(clock, ScriptedModel(never)) as manager:
        thread = (await manager.start_thread(Config())).thread
        began_s = clock.now_s()
        result = await thread.run("hello")
        return result.error, clock.now_s() - began_s


def test_same_seed_replays_the_same_trace() -> None:
    trace = trace_of(1)
    for kind in ("task_complete", "turn_aborted", "agent_message_delta", "item_completed", "thread_rolled_back"):
        assert any(f'"type":"{kind}"' in line for line in trace)
    assert trace_of(1) == trace


def test_replay_is_no_matter_of_hashes() -> None:
    assert in_process(2, "1") == in_process(2, "2") == trace_of(2)


def test_other_seeds_give_other_traces() -> None:
    assert len({tuple(trace_of(seed)) for seed in range(3, 7)}) == 4


def test_seed_decides_which_actor_is_next() -> None:
    orders = [tuple(virtually(clock, who_speaks(clock))) for clock in map(SimulatedClock, (1, 1, 2, 3))]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_turn_deadline_fires_without_really_waiting() -> None:
    clock = SimulatedClock(1)
    error, waited_s = virtually(clock, wait_for_nothing(clock))
    assert error == "the turn did not finish within 3600 s"
    assert waited_s == pytest.approx(3600)


if __name__ == "__main__":
    print("\n".join(trace_of(int(sys.argv[1]))))
