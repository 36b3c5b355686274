from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

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
from codex_actors.runtime.workers import Workers
from codex_actors.tools.tool import Tool, ToolContext, tool
from codex_actors.tools.toolbox import CallDone, Toolbox, done

CONTEXT = ToolContext(ThreadId("0193b5b8-0000-7000-8000-000000000001"), "t1", "", None)


@tool
async def ping(context: ToolContext) -> str:
    return f"pong {context.call_id}"


@tool
def ping_sync(context: ToolContext) -> str:
    return f"pong {context.call_id}"


def call(name: str, arguments: str = "{}") -> FunctionCall:
    return FunctionCall(name=name, arguments=arguments, call_id="c1")


def run(wanted: Any, *tools: Tool[Any, Any], timeout_s: float = 10.0) -> CallDone:
    async def main() -> CallDone:
        workers = Workers(Pump(asyncio.get_running_loop(), Clock()))
        try:
            return await asyncio.wait_for(Toolbox(tools, workers, timeout_s).run(wanted, CONTEXT), 10)
        finally:
            workers.close()

    return asyncio.run(main())


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
            outcome = run(call(made.name), made, timeout_s=0.02)
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


def test_cancelled_call_cancels_its_tool() -> None:
    ended: list[str] = []

    @tool
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main() -> None:
        workers = Workers(Pump(asyncio.get_running_loop(), Clock()))
        task = asyncio.create_task(Toolbox((waits,), workers, 10).run(call("waits"), CONTEXT))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (left,) = workers.tasks or (None,)
        if left is not None:
            await asyncio.wait({left}, timeout=10)
        assert not workers.tasks

    asyncio.run(main())
    assert ended == ["cancelled"]


def test_specs_are_the_wire_json_in_order() -> None:
    box = Toolbox((ping, ping_sync), None, 1.0)  # type: ignore[arg-type]
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
