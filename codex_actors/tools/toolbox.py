"""Runs the calls of a model: finds their tools, gives each a deadline, and makes every outcome an output for the model."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeAlias

from codex_actors.config import ManagerConfig, ToolLike
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    LocalShellCall,
)
from codex_actors.runtime.pump import pass_on
from codex_actors.runtime.workers import Workers
from codex_actors.tools.output import render
from codex_actors.tools.tool import ToolContext, ToolError, spec

Call: TypeAlias = FunctionCall | CustomToolCall | LocalShellCall
"""What a model may ask to be done; the tools of a `Toolbox` answer a `FunctionCall`."""


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call has its output; `success` is False where the tool did not do what was asked."""

    call: Call
    output: FunctionCallOutput | CustomToolCallOutput
    text: str
    success: bool


def done(call: Call, text: str, *, success: bool) -> CallDone:
    """A call's end with this output."""
    call_id = call.call_id or ""
    kind = CustomToolCallOutput if isinstance(call, CustomToolCall) else FunctionCallOutput
    return CallDone(call, kind(call_id=call_id, output=text), text, success)


@dataclass(frozen=True, slots=True)
class _Outcome:
    text: str
    success: bool


class Toolbox:
    """The tools of one config.

    A sync tool runs in an OS thread of `workers`, an async one in a task on the loop. At its deadline, or when its turn is
    interrupted, it is cancelled and no longer waited for: one that does not end is counted by `workers`.
    """

    def __init__(self, tools: tuple[ToolLike, ...], workers: Workers, config: ManagerConfig) -> None:
        self.tools = tools
        self._tools: Mapping[str, ToolLike] = {tool.name: tool for tool in tools}
        self.specs = tuple(spec(tool) for tool in tools)
        self._workers = workers
        self._timeout_s = config.tool_timeout_s
        self._output_bytes = config.tool_output_bytes

    async def run_all(self, calls: Sequence[Call], context: ToolContext) -> AsyncGenerator[CallDone, None]:
        """Run the calls of one response; an end is told as soon as all calls before it have theirs.

        Read-only calls that follow each other run at once, any other runs alone. Left in the middle, it leaves the tools
        behind, as `run` does.

        Source: `codex-rs/core/src/tools/parallel.rs`. Its fair read-write lock lets the same calls run beside each other;
        here they are all known before the first begins, so that there is nothing to lock.
        """
        for _, group in groupby(calls, self._side):
            beside = list(group)
            if len(beside) == 1:  # most responses have one call: it needs no task beside the turn's
                yield await self.run(beside[0], context)
                continue
            tasks: list[asyncio.Task[CallDone]] = []
            try:
                for call in beside:
                    tasks.append(asyncio.create_task(self.run(call, context)))
                for task in tasks:
                    yield await task
            finally:
                for task in tasks:
                    task.cancel()
                # Nothing of a turn outlives it: a close counts what its tools left behind when its task has ended.
                await asyncio.gather(*tasks, return_exceptions=True)

    def _side(self, call: Call) -> object:
        """Equal for calls that may run beside each other; a call without a tool does nothing, and may."""
        tool = self._tool_of(call)
        return True if tool is None or tool.is_read_only else object()

    def _tool_of(self, call: Call) -> ToolLike | None:
        return self._tools.get(call.name) if isinstance(call, FunctionCall) else None

    async def run(self, call: Call, context: ToolContext) -> CallDone:
        """Run one call. Never raises for what the tool does; cancelled, it leaves the tool behind."""
        tool = self._tool_of(call)
        if tool is None or not isinstance(call, FunctionCall):
            name = "local_shell" if isinstance(call, LocalShellCall) else call.name
            # Codex's text; the model learns from it which tools there are not.
            return self._failed(call, f"unsupported call: {name}")
        limit_s = self._timeout_s if tool.timeout_s is None else tool.timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                context = replace(context, call_id=call.call_id, limit=limit)
                outcome = await self._outcome(tool, call.arguments, context)
        except TimeoutError:
            return self._failed(call, f"tool {tool.name} did not finish within {limit_s:g} s")
        return done(call, outcome.text, success=outcome.success)

    def _failed(self, call: Call, text: str) -> CallDone:
        return done(call, render(text, limit_bytes=self._output_bytes), success=False)

    async def _outcome(self, tool: ToolLike, arguments: str, context: ToolContext) -> _Outcome:
        if not tool.is_async:
            context = replace(context, limit=None)  # it belongs to the loop, which is another OS thread's
            call = functools.partial(called, tool, arguments, context, self._output_bytes)
            outcome: _Outcome = await self._workers.run(call, contextvars.copy_context())
            return outcome
        # A task of its own: a tool that swallows its cancellation must hold up neither its turn nor the deadline.
        task = asyncio.get_running_loop().create_task(guarded(tool, arguments, context, self._output_bytes))
        self._workers.tasks.add(task)
        task.add_done_callback(self._workers.tasks.discard)
        try:
            await asyncio.wait({task})
        except BaseException:
            task.cancel()
            raise
        return task.result()


def called(tool: ToolLike, arguments: str, context: ToolContext, limit_bytes: int) -> _Outcome:
    """A sync tool's outcome, whatever it raises. Runs in: an OS thread of the workers."""
    try:
        return _Outcome(render(tool.call(arguments, context), limit_bytes=limit_bytes), True)
    except BaseException as error:
        return _Outcome(render(_why(tool, error), limit_bytes=limit_bytes), False)


async def guarded(tool: ToolLike, arguments: str, context: ToolContext, limit_bytes: int) -> _Outcome:
    """A tool's outcome, whatever it raises: a `SystemExit` or `CancelledError` of its own is its failure, not the loop's.

    A `KeyboardInterrupt` is both.
    """
    tool_name, thread_id = tool.name, context.thread_id  # read by the watchdog
    try:
        made: Awaitable[Any] = tool.call(arguments, context)
        return _Outcome(render(await made, limit_bytes=limit_bytes), True)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            pass_on(asyncio.get_running_loop(), error)
        del tool_name, thread_id
        return _Outcome(render(_why(tool, error), limit_bytes=limit_bytes), False)


def _why(tool: ToolLike, error: BaseException) -> str:
    """What the model reads of a failure; an error that cannot even say its own text is one too."""
    try:
        text = str(error)
    except Exception as problem:
        text = f"(its text could not be read: {type(problem).__name__})"
    if isinstance(error, ToolError):
        return text
    return f"tool {tool.name} failed: {type(error).__name__}" + (f": {text}" if text else "")
