"""Runs the calls of a model: finds the tool, gives it a deadline, and makes every outcome an output for the model."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from codex_actors.config import ToolLike
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    LocalShellCall,
)
from codex_actors.runtime.workers import Workers
from codex_actors.tools.tool import ToolArgumentsError, ToolContext, ToolOutputError, render, spec


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call has its output; `success` is False where the tool did not do what was asked."""

    call: FunctionCall | CustomToolCall | LocalShellCall
    output: FunctionCallOutput | CustomToolCallOutput
    text: str
    success: bool


def done(call: FunctionCall | CustomToolCall | LocalShellCall, text: str, *, success: bool) -> CallDone:
    """A call's end with this output."""
    call_id = call.call_id or ""
    kind = CustomToolCallOutput if isinstance(call, CustomToolCall) else FunctionCallOutput
    return CallDone(call, kind(call_id=call_id, output=text), text, success)


@dataclass(slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Toolbox:
    """The tools of one config.

    A sync tool runs in an OS thread of `workers`, an async one in a task on the loop. At its deadline, or when its turn is
    interrupted, it is cancelled and no longer waited for: one that does not end is counted by `workers`.
    """

    def __init__(self, tools: tuple[ToolLike, ...], workers: Workers, timeout_s: float) -> None:
        self.tools = tools
        self._tools: Mapping[str, ToolLike] = {tool.name: tool for tool in tools}
        self.specs = tuple(spec(tool) for tool in tools)
        self._workers = workers
        self._timeout_s = timeout_s

    async def run(self, call: FunctionCall | CustomToolCall | LocalShellCall, context: ToolContext) -> CallDone:
        """Run one call. Never raises for what the tool does; cancelled, it leaves the tool behind."""
        name = "local_shell" if isinstance(call, LocalShellCall) else call.name
        tool = self._tools.get(name)
        if tool is None or not isinstance(call, FunctionCall):
            # Codex's text; the model learns from it which tools there are not.
            return done(call, f"unsupported call: {name}", success=False)
        context = replace(context, call_id=call.call_id)
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._outcome(tool, call.arguments, context)
        except TimeoutError:
            return done(call, f"tool {name} did not finish within {self._timeout_s:g} s", success=False)
        if outcome.error is None:
            try:
                return done(call, render(outcome.value), success=True)
            except ToolOutputError as error:
                return done(call, f"tool {name}: {error}", success=False)
        if isinstance(outcome.error, ToolArgumentsError):
            return done(call, str(outcome.error), success=False)
        return done(call, f"tool {name} failed: {type(outcome.error).__name__}: {outcome.error}", success=False)

    async def _outcome(self, tool: ToolLike, arguments: str, context: ToolContext) -> _Outcome:
        if not tool.is_async:
            call = functools.partial(called, tool, arguments, context)
            outcome: _Outcome = await self._workers.run(call, contextvars.copy_context())
            return outcome
        # A task of its own: a tool that swallows its cancellation must hold up neither its turn nor the deadline.
        task = asyncio.get_running_loop().create_task(guarded(tool, arguments, context))
        self._workers.tasks.add(task)
        task.add_done_callback(self._workers.tasks.discard)
        try:
            await asyncio.wait({task})
        except BaseException:
            task.cancel()
            raise
        return task.result()


def called(tool: ToolLike, arguments: str, context: ToolContext) -> _Outcome:
    """A sync tool's outcome, whatever it raises. Runs in: an OS thread of the workers."""
    try:
        return _Outcome(tool.call(arguments, context))
    except BaseException as error:
        return _Outcome(error=error)


async def guarded(tool: ToolLike, arguments: str, context: ToolContext) -> _Outcome:
    """A tool's outcome, whatever it raises: a `SystemExit` or `CancelledError` of its own is its failure, not the loop's."""
    tool_name, thread_id = tool.name, context.thread_id  # read by the watchdog
    try:
        made: Awaitable[Any] = tool.call(arguments, context)
        return _Outcome(await made)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del tool_name, thread_id
        return _Outcome(error=error)
