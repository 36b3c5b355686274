from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from codex_actors.config import ManagerConfig
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    LocalShellCall,
)
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.workers import WORKING_BOUND, Workers
from codex_actors.testing import no_leaks
from codex_actors.tools.tool import Tool, ToolContext, ToolError, tool
from codex_actors.tools.toolbox import CallDone, Toolbox, done

R = TypeVar("R")

CONTEXT = ToolContext(ThreadId("0193b5b8-0000-7000-8000-000000000001"), "t1", "", None)


@tool
async def ping(context: ToolContext) -> str:
    return f"pong {context.call_id}"


@tool
def ping_sync(context: ToolContext) -> str:
    return f"pong {context.call_id}"


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> FunctionCall:
    return FunctionCall(name=name, arguments=arguments, call_id=call_id)


def calls(*names: str) -> list[FunctionCall]:
    return [call(name, call_id=f"c{number}") for number, name in enumerate(names)]


def in_box(test: Callable[[Toolbox, Workers], Awaitable[R]], *tools: Tool[Any, Any], **limits: Any) -> R:
    async def main() -> R:
        workers = Workers(Pump(asyncio.get_running_loop(), Clock()))
        try:
            return await asyncio.wait_for(test(Toolbox(tools, workers, ManagerConfig(**limits)), workers), 10)
        finally:
            workers.close()

    return asyncio.run(main())


def run(wanted: Any, *tools: Tool[Any, Any], **limits: Any) -> CallDone:
    return in_box(lambda box, _: box.run(wanted, CONTEXT), *tools, **limits)


def run_all(calls: Sequence[Any], *tools: Tool[Any, Any], **limits: Any) -> list[str]:
    """The outputs, in the order told."""

    async def test(box: Toolbox, _: Workers) -> list[str]:
        return [ended.text async for ended in box.run_all(calls, CONTEXT)]

    return in_box(test, *tools, **limits)


@pytest.mark.parametrize("made", [ping, ping_sync], ids=lambda made: made.name)
def test_call_runs_its_tool_with_its_id(made: Tool[Any, Any]) -> None:
    outcome = run(call(made.name), ping, ping_sync)
    assert outcome.output == FunctionCallOutput(call_id="c1", output="pong c1")
    assert (outcome.text, outcome.success) == ("pong c1", True)


@pytest.mark.parametrize(
    ("wanted", "output"),
    [
        (call("nope"), FunctionCallOutput(call_id="c1", output="unsupported call: nope")),
        (
            CustomToolCall(name="ping", input="x", call_id="c2"),
            CustomToolCallOutput(call_id="c2", output="unsupported call: ping"),
        ),
        (
            LocalShellCall(call_id="c3", status="completed", action={}),
            FunctionCallOutput(call_id="c3", output="unsupported call: local_shell"),
        ),
    ],
)
def test_call_without_a_tool_is_closed(wanted: Any, output: Any) -> None:
    outcome = run(wanted, ping)
    assert (outcome.output, outcome.success) == (output, False)


def test_deadline_ends_the_wait_for_either_kind() -> None:
    release = threading.Event()

    @tool
    async def slow() -> None:
        await asyncio.Event().wait()

    @tool
    def slow_sync() -> None:
        release.wait(10)

    try:
        for made in (slow, slow_sync):
            outcome = run(call(made.name), made, tool_timeout_s=0.02)
            assert (outcome.text, outcome.success) == (f"tool {made.name} did not finish within 0.02 s", False)
    finally:
        release.set()


def test_timeout_of_the_tool_is_its_own_failure() -> None:
    @tool
    async def asks() -> None:
        raise TimeoutError("the server's")

    @tool
    def asks_sync() -> None:
        raise TimeoutError("the server's")

    for made in (asks, asks_sync):
        assert run(call(made.name), made).text == f"tool {made.name} failed: TimeoutError: the server's"


def test_tool_has_a_deadline_of_its_own() -> None:
    @tool(timeout_s=0.02)
    async def quick() -> None:
        await asyncio.Event().wait()

    @tool(timeout_s=10)
    async def patient() -> str:
        await quick_ended.wait()
        return "ok"

    async def test(box: Toolbox, _: Workers) -> list[str]:
        patience = asyncio.create_task(box.run(call("patient"), CONTEXT))
        late = await box.run(call("quick"), CONTEXT)
        quick_ended.set()
        return [late.text, (await patience).text]

    quick_ended = asyncio.Event()
    outputs = in_box(test, quick, patient, tool_timeout_s=0.01)
    assert outputs == ["tool quick did not finish within 0.02 s", "ok"]


def test_tool_error_is_the_output_as_it_is() -> None:
    @tool
    async def refuses() -> None:
        raise ToolError("no such city; try Oslo")

    outcome = run(call("refuses"), refuses)
    assert (outcome.text, outcome.success) == ("no such city; try Oslo", False)


def test_error_without_a_readable_text_is_named() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    @tool
    def mute() -> None:
        raise MuteError

    @tool
    async def silent() -> None:
        raise ValueError

    assert run(call("mute"), mute).text == "tool mute failed: MuteError: (its text could not be read: ValueError)"
    assert run(call("silent"), silent).text == "tool silent failed: ValueError"


@tool
def says_much() -> str:
    return "x" * 30


@tool
async def says_much_later() -> list[str]:
    return ["x" * 30]


@tool
def fails_at_length() -> None:
    raise ToolError("x" * 30)


@pytest.mark.parametrize("name", ["says_much", "says_much_later", "fails_at_length", "nope" * 20])
def test_every_output_is_held_to_the_limit(name: str) -> None:
    text = run(call(name), says_much, says_much_later, fails_at_length, tool_output_bytes=10).text
    assert " bytes, 0 lines left out]…" in text
    assert len(text.encode()) < 60


def test_read_only_calls_run_beside_each_other() -> None:
    together = threading.Barrier(3)

    @tool(read_only=True)
    def meet(context: ToolContext) -> str:
        together.wait(10)
        return context.call_id

    assert run_all(calls("meet", "meet", "meet"), meet) == ["c0", "c1", "c2"]


def test_other_calls_run_alone_in_call_order() -> None:
    log: list[str] = []

    async def at_work(context: ToolContext) -> str:
        log.append(f"{context.call_id} begins")
        for _ in range(5):
            await asyncio.sleep(0)
        log.append(f"{context.call_id} ends")
        return context.call_id

    tools = tool(name="look", read_only=True)(at_work), tool(name="write")(at_work)
    names = ["look", "look", "write", "write", "look", "nope", "look"]
    outputs = run_all(calls(*names), *tools)
    assert outputs == ["c0", "c1", "c2", "c3", "c4", "unsupported call: nope", "c6"]
    assert log == [
        *("c0 begins", "c1 begins", "c0 ends", "c1 ends"),
        *("c2 begins", "c2 ends"),
        *("c3 begins", "c3 ends"),
        *("c4 begins", "c6 begins", "c4 ends", "c6 ends"),
    ]


def test_output_is_told_as_soon_as_it_may() -> None:
    @tool(read_only=True)
    async def wait(gate: int) -> int:
        await gates[gate].wait()
        return gate

    async def test(box: Toolbox, _: Workers) -> list[str]:
        told = []
        wanted = [call("wait", f'{{"gate": {gate}}}', f"c{gate}") for gate in range(3)]
        gates[0].set()
        gates[2].set()
        async for ended in box.run_all(wanted, CONTEXT):
            told.append(ended.text)
            gates[1].set()  # never, had the first output waited for the second
        return told

    gates = [asyncio.Event() for _ in range(3)]
    assert in_box(test, wait) == ["0", "1", "2"]


def test_slow_call_loses_nothing_of_the_others() -> None:
    @tool(read_only=True, timeout_s=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    @tool(read_only=True)
    async def fast(context: ToolContext) -> str:
        return context.call_id

    outputs = run_all(calls("fast", "slow", "fast"), slow, fast)
    assert outputs == ["c0", "tool slow did not finish within 0.05 s", "c2"]


@pytest.mark.parametrize("is_async", [True, False])
def test_sixty_four_calls_run_at_once(is_async: bool) -> None:
    @tool(name="meet", read_only=True)
    async def meet_async(context: ToolContext) -> str:
        arrived.append(context.call_id)
        if len(arrived) == 64:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 10)
        return context.call_id

    @tool(name="meet", read_only=True)
    def meet_sync(context: ToolContext) -> str:
        together.wait(10)
        return context.call_id

    arrived: list[str] = []
    everybody, together = asyncio.Event(), threading.Barrier(WORKING_BOUND)
    wanted = calls(*["meet"] * 64)
    assert run_all(wanted, meet_async if is_async else meet_sync) == [call.call_id for call in wanted]


@pytest.mark.parametrize("count", [1, 3])
def test_cancelled_calls_cancel_their_tools(count: int) -> None:
    ended: list[str] = []
    begun = asyncio.Semaphore(0)

    @tool(read_only=True)
    async def waits(context: ToolContext) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(context.call_id)

    async def test(box: Toolbox, workers: Workers) -> None:
        task = asyncio.create_task(anext(box.run_all(calls(*["waits"] * count), CONTEXT)))
        for _ in range(count):
            await begun.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if workers.tasks:
            await asyncio.wait(workers.tasks, timeout=10)
        assert not workers.tasks

    in_box(test, waits)
    assert ended == [f"c{number}" for number in range(count)]


def test_left_calls_are_counted_when_left() -> None:
    release, begun = threading.Event(), threading.Semaphore(0)

    @tool(read_only=True)
    def stuck() -> None:
        begun.release()
        release.wait(10)

    @tool(read_only=True)
    async def at_once() -> str:
        return "ok"

    async def test(box: Toolbox, workers: Workers) -> int:
        async with aclosing(box.run_all(calls("at_once", "stuck", "stuck"), CONTEXT)) as ends:
            assert (await anext(ends)).text == "ok"
            for _ in range(2):
                assert await asyncio.to_thread(begun.acquire, timeout=10)
        abandoned = workers.abandoned
        release.set()
        return abandoned

    with no_leaks():
        assert in_box(test, stuck, at_once) == 2


def test_specs_are_the_wire_json_in_order() -> None:
    box = Toolbox((ping, ping_sync), None, ManagerConfig())  # type: ignore[arg-type]
    assert [spec["name"] for spec in box.specs] == ["ping", "ping_sync"]
    assert box.specs[0] == {
        "type": "function",
        "name": "ping",
        "description": "",
        "parameters": ping.parameters,
        "strict": False,
    }


def test_done_makes_the_output_that_fits_the_call() -> None:
    assert isinstance(done(call("x"), "t", success=True).output, FunctionCallOutput)
    assert isinstance(
        done(CustomToolCall(name="x", input="", call_id="c"), "t", success=True).output, CustomToolCallOutput
    )
