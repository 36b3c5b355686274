"""One turn as an async generator of steps: model, items, calls, outputs, until no call is left. No actor inside.

Source: `codex-rs/core/src/codex.rs`, `run_task` and `run_turn`. A turn task iterates it and tells each step to its actor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

from codex_actors.errors import CodexError, ContextWindowExceeded, StreamError, TurnFailed, TurnInterrupted
from codex_actors.model.provider import (
    Completed,
    ItemDone,
    ModelEvent,
    ModelProvider,
    Prompt,
    TextDelta,
    check_event,
    close_stream,
)
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import CustomToolCall, FunctionCall, LocalShellCall, ResponseItem
from codex_actors.protocol.status import AgentStatus
from codex_actors.tools.tool import ToolContext
from codex_actors.tools.toolbox import Call, CallDone, Toolbox


@dataclass(frozen=True, slots=True)
class ContextFull:
    """The model refused the request as too long for it."""


Step: TypeAlias = ModelEvent | CallDone | ContextFull
"""What a turn yields: what the model said, as it came, and the output of each call."""

CALLS = (FunctionCall, CustomToolCall, LocalShellCall)


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended.

    Attributes:
        turn_id: The submission that began it.
        text: The last message of the model, or None.
        items: What the turn added to the history behind its input, in order.
        usage: The tokens of its requests.
        status: `completed`, `interrupted` or `errored`.
        error: The text of its `error` event, or None.
        aborted: Codex's word for why it was aborted (`interrupted`, `replaced`), or None.
        cause: The error itself, where it is one of ours; None otherwise.
        duration_s: From its begin to its end.
        time_to_first_token_s: From its begin to the first that the model said; None where it said nothing.
        output_problem: Why `text` is not JSON of the input's `final_output_json_schema`; None where it is, or nothing was
            asked for.
    """

    turn_id: str
    text: str | None
    items: tuple[ResponseItem, ...]
    usage: TokenUsage
    status: AgentStatus
    error: str | None
    aborted: str | None = None
    cause: CodexError | None = None
    duration_s: float = 0.0
    time_to_first_token_s: float | None = None
    output_problem: str | None = None

    def raise_for_error(self) -> TurnResult:
        """This result, if the turn completed.

        Raises:
            TurnFailed: it failed; `__cause__` is `cause`.
            TurnInterrupted: it was aborted, by an interrupt or for another turn.
        """
        if self.error is not None:
            raise TurnFailed(self.turn_id, self.error) from self.cause
        if self.aborted is not None or self.status.word == "interrupted":
            raise TurnInterrupted(self.turn_id, self.aborted or "interrupted")
        return self


async def run_turn(
    prompt: Prompt,
    next_prompt: Callable[[], Awaitable[Prompt]],
    model: ModelProvider,
    toolbox: Toolbox,
    context: ToolContext,
) -> AsyncIterator[Step]:
    """Run a turn.

    Args:
        prompt: The first request.
        next_prompt: Gives the next one, after all steps so far were taken in; new user input is in it. It is asked once
            more for a request that was too long, behind the step `ContextFull`.
        model: Every stream that it begins is closed, also when the turn is left in the middle.
        context: What tools are told; `call_id` is set for each call.

    Raises:
        CodexError: the model failed, or its stream ended without `Completed`.
    """
    was_full = False
    while True:
        calls: list[Call] = []
        completed = is_full = False
        stream = model.stream(prompt)
        try:
            async for event in stream:
                if type(event) is TextDelta and type(event.delta) is str:  # first: most events are
                    yield event
                    continue
                check_event(event)
                if type(event) is ItemDone and isinstance(event.item, CALLS):
                    calls.append(event.item)
                completed = type(event) is Completed
                yield event
                if completed:
                    break
        except ContextWindowExceeded:
            if was_full or calls:
                raise
            is_full = was_full = True
        finally:
            await close_stream(stream)
        if is_full:
            yield ContextFull()
            prompt = await next_prompt()
            continue
        was_full = False
        if not completed:
            raise StreamError("stream closed before response.completed")
        if not calls:
            return
        async with aclosing(toolbox.run_all(calls, context)) as ends:
            async for end in ends:
                yield end
        prompt = await next_prompt()
