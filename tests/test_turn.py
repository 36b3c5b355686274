from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from codex_actors.config import ManagerConfig
from codex_actors.errors import StreamError, TurnFailed, TurnInterrupted
from codex_actors.model.provider import Completed, ItemDone, ModelEvent, Prompt, TextDelta
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.workers import Workers
from codex_actors.tools.tool import Tool, ToolContext, tool
from codex_actors.tools.toolbox import CallDone, Toolbox
from codex_actors.turn import Step, TurnResult, run_turn

PROMPT = Prompt(
    thread_id=ThreadId("0193b5b8-0000-7000-8000-000000000001"),
    model="m",
    instructions=None,
    input=(),
    tools=(),
    parallel_tool_calls=True,
    output_schema=None,
)
CONTEXT = ToolContext(PROMPT.thread_id, "t1", "", None)
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
DONE = Completed(None)


class Model:
    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)
        self.prompts: list[Prompt] = []
        self.closed = 0

    def open(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext()

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        self.prompts.append(prompt)
        try:
            for event in self._answers.pop(0):
                yield event
        finally:
            self.closed += 1


@tool
async def look() -> str:
    return "seen"


def walk(model: Model, *tools: Tool[Any, Any], each: Callable[[Step], None] = lambda step: None) -> list[Step]:
    """The steps of one turn; request n has the model name `m<n>`."""
    steps: list[Step] = []

    async def main() -> None:
        pump = Pump(asyncio.get_running_loop(), Clock())
        toolbox = Toolbox(tools, Workers(pump), ManagerConfig())

        async def next_prompt() -> Prompt:
            return replace(PROMPT, model=f"m{len(model.prompts)}")

        turn = run_turn(PROMPT, next_prompt, model, toolbox, CONTEXT)
        async with contextlib.aclosing(turn):  # type: ignore[type-var]
            async for step in turn:
                steps.append(step)
                each(step)

    asyncio.run(main())
    return steps


def test_turn_without_calls_asks_once() -> None:
    model = Model([TextDelta("a"), ItemDone(Message(role="assistant")), DONE])
    assert walk(model) == [TextDelta("a"), ItemDone(Message(role="assistant")), DONE]
    assert (model.prompts, model.closed) == ([PROMPT], 1)


def test_turn_asks_until_no_call_is_left() -> None:
    model = Model([ItemDone(CALL), DONE], [ItemDone(CALL), DONE], [DONE])
    steps = walk(model, look)
    assert [type(step).__name__ for step in steps] == [
        *("ItemDone", "Completed", "CallDone"),
        *("ItemDone", "Completed", "CallDone"),
        "Completed",
    ]
    assert [prompt.model for prompt in model.prompts] == ["m", "m1", "m2"]
    assert model.closed == 3


def calls_of(name: str, count: int) -> list[FunctionCall]:
    return [FunctionCall(name=name, arguments="{}", call_id=f"c{number}") for number in range(count)]


def test_calls_run_in_order_after_the_stream() -> None:
    calls = calls_of("look", 3)
    steps = walk(Model([*map(ItemDone, calls), DONE], [DONE]), look)
    assert [step.call.call_id for step in steps if isinstance(step, CallDone)] == ["c0", "c1", "c2"]
    assert [isinstance(step, CallDone) for step in steps] == [False] * 4 + [True] * 3 + [False]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([], "stream closed before response.completed"),
        ([ItemDone(CALL)], "stream closed before response.completed"),
        (["text"], "the model yielded a str, which is no model event"),
        ([None], "the model yielded a NoneType, which is no model event"),
    ],
)
def test_bad_stream_is_an_error_and_closed(answer: list[Any], error: str) -> None:
    model = Model(answer)
    with pytest.raises(StreamError, match=error):
        walk(model, look)
    assert model.closed == 1


def test_left_turn_closes_its_stream() -> None:
    class LeftError(Exception):
        pass

    def leave(step: Step) -> None:
        raise LeftError

    model = Model([TextDelta("a"), TextDelta("b"), DONE])
    with pytest.raises(LeftError):
        walk(model, each=leave)
    assert model.closed == 1


def test_nothing_is_read_behind_completed() -> None:
    model = Model([DONE, TextDelta("late")])
    assert walk(model) == [DONE]
    assert model.closed == 1


def test_calls_of_one_response_run_at_once() -> None:
    @tool(read_only=True)
    def meet(context: ToolContext) -> str:
        together.wait(10)
        return context.call_id

    together = threading.Barrier(5)
    steps = walk(Model([*map(ItemDone, calls_of("meet", 5)), DONE], [DONE]), meet)
    assert [step.text for step in steps if isinstance(step, CallDone)] == ["c0", "c1", "c2", "c3", "c4"]


def test_left_turn_gives_up_its_calls() -> None:
    @tool(read_only=True)
    async def look_or_wait(context: ToolContext) -> None:
        if context.call_id != "c0":
            await asyncio.Event().wait()

    async def main() -> list[Any]:
        workers = Workers(Pump(asyncio.get_running_loop(), Clock()))
        toolbox = Toolbox((look_or_wait,), workers, ManagerConfig())
        model = Model([*map(ItemDone, calls_of("look_or_wait", 3)), DONE])
        turn = run_turn(PROMPT, unasked, model, toolbox, CONTEXT)
        async with contextlib.aclosing(turn):  # type: ignore[type-var]
            async for step in turn:
                if isinstance(step, CallDone):
                    break
        return [task for task in workers.tasks if not task.cancelling()]

    async def unasked() -> Prompt:
        raise AssertionError

    assert asyncio.run(main()) == []


def result(**changes: Any) -> TurnResult:
    return replace(TurnResult("t1", "ok", (), TokenUsage(), AgentStatus.completed("ok"), None), **changes)


def test_raise_for_error_tells_how_it_ended() -> None:
    good = result()
    assert good.raise_for_error() is good
    with pytest.raises(TurnFailed, match="turn t1 failed: no server"):
        result(error="no server", status=AgentStatus.errored("no server")).raise_for_error()
    with pytest.raises(TurnInterrupted, match="turn t1 was aborted: interrupted"):
        result(status=AgentStatus.INTERRUPTED).raise_for_error()
