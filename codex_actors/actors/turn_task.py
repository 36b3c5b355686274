"""The turn task: it runs `run_turn` on the loop and tells its actor each step. The actor commits, the task computes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from codex_actors.actors.shared import Shared
from codex_actors.errors import CodexError
from codex_actors.model.provider import Prompt, ReasoningDelta, TextDelta
from codex_actors.tools.tool import ToolContext
from codex_actors.tools.toolbox import Toolbox
from codex_actors.turn import run_turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from codex_actors.actors.thread import ThreadActor
    from codex_actors.turn import Step

DELTA_STEPS = (TextDelta, ReasoningDelta)
"""Steps that are not kept: an interrupt drops those that still wait."""

DELTAS_PER_SLICE = 256
"""After so many deltas in a row the task gives the loop back: a model that never waits must not keep it."""


@dataclass(frozen=True, slots=True)
class TakeInput:
    """The task is about to ask the model again: what was steered in becomes history, and `prompt` is the whole of it."""

    prompt: asyncio.Future[Prompt]


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The task is over; `error` is None where the model had no more calls."""

    error: str | None


async def drive_turn(
    shared: Shared, actor: ThreadActor, turn_id: str, prompt: Prompt, toolbox: Toolbox, context: ToolContext
) -> None:
    """Run the turn `turn_id`. Whatever happens, its last step is `TurnEnded`; a stale task's steps are dropped."""
    thread_id = actor.thread_id  # read by the watchdog
    box = actor.actor_inbox
    error: str | None = f"the turn of thread {thread_id} was cancelled from outside the runtime"

    async def next_prompt() -> Prompt:
        answer: asyncio.Future[Prompt] = asyncio.get_running_loop().create_future()
        box.put_step(actor, (turn_id, TakeInput(answer)))
        return await answer

    try:
        if not shared.model.is_open:
            await shared.model.ready()
        deltas = 0
        steps = cast("AsyncGenerator[Step]", run_turn(prompt, next_prompt, shared.model.model, toolbox, context))
        async with aclosing(steps):
            async for step in steps:
                if not box.put_step(actor, (turn_id, step)):
                    await box.room()
                if type(step) in DELTA_STEPS:
                    deltas += 1
                    if deltas % DELTAS_PER_SLICE == 0:
                        await asyncio.sleep(0)
        error = None
    except asyncio.CancelledError as raised:
        task = asyncio.current_task()
        if task is None or not task.cancelling():  # nobody cancelled it: the model raised this by itself
            error = _text(raised)
    except KeyboardInterrupt:
        error = "interrupted by the keyboard"
        raise
    except BaseException as raised:
        error = _text(raised)
    finally:
        box.put_step(actor, (turn_id, TurnEnded(error)))


def _text(error: BaseException) -> str:
    if isinstance(error, CodexError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
