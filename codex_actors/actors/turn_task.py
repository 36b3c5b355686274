"""The turn task: it runs `run_turn` on the loop and tells its actor each step. The actor commits, the task computes."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from codex_actors.actors.approvals import AskApproval
from codex_actors.actors.shared import Shared
from codex_actors.compaction import summarize
from codex_actors.errors import CodexError, UnsupportedOperation
from codex_actors.model.provider import ItemDone, Prompt, ReasoningDelta, TextDelta
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.items import Message
from codex_actors.protocol.ops import ReviewDecision
from codex_actors.runtime.reply import in_os_thread
from codex_actors.tools.output_schema import output_problem
from codex_actors.tools.tool import ToolContext
from codex_actors.tools.toolbox import Toolbox
from codex_actors.turn import run_turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from codex_actors.actors.thread import ThreadActor
    from codex_actors.compaction import SummaryStep
    from codex_actors.turn import Step

DELTA_STEPS = (TextDelta, ReasoningDelta)
"""Steps that are not kept: an interrupt drops those that still wait."""

DELTAS_PER_SLICE = 256
"""After so many deltas in a row the task gives the loop back: a model that never waits must not keep it."""


class Request(NamedTuple):
    """What the model is asked next. With a `compaction`, that is asked first, and then for the request anew; without a
    `prompt` nothing is asked behind it."""

    prompt: Prompt | None
    compaction: Prompt | None = None


@dataclass(frozen=True, slots=True)
class TakeInput:
    """The task is about to ask the model again: what was steered in becomes history, and `request` has the whole of it."""

    request: asyncio.Future[Request]


@dataclass(frozen=True, slots=True)
class ToolSaid:
    """A running tool call shows an event."""

    msg: EventMsg


@dataclass(frozen=True, slots=True)
class WrongOutput:
    """The last message is not what the turn's output schema asks for; `problem` says why."""

    problem: str


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The task is over; `error` is None where the model had no more calls, `cause` an error of ours behind it."""

    error: str | None
    cause: CodexError | None = None


class Road:
    """The way from a tool call to the actor of its turn, which it does not keep alive: a tool may outlast its turn."""

    __slots__ = ("_actor", "_turn_id")

    def __init__(self, actor: ThreadActor, turn_id: str) -> None:
        self._actor = weakref.ref(actor)
        self._turn_id = turn_id

    async def emit(self, msg: EventMsg) -> None:
        """Show an event of the turn, if it still runs."""
        actor = self._thread()
        if actor is not None and not actor.actor_inbox.put_step(actor, (self._turn_id, ToolSaid(msg))):
            await actor.actor_inbox.room()

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        """Ask whoever watches the thread; `denied` where the turn has ended."""
        actor = self._thread()
        turn = None if actor is None else actor.turn
        if actor is None or turn is None or turn.id != self._turn_id:
            return "denied"
        answer: asyncio.Future[ReviewDecision] = asyncio.get_running_loop().create_future()
        turn.answers = turn.answers or set()
        turn.answers.add(answer)
        answer.add_done_callback(turn.answers.discard)
        actor.actor_inbox.put_step(actor, (self._turn_id, AskApproval(call_id, command, cwd, reason, answer)))
        del actor, turn
        return await answer

    def _thread(self) -> ThreadActor | None:
        actor = self._actor()
        if actor is not None and not actor.pump.on_loop():
            raise UnsupportedOperation("emit and ask_approval run on the manager's loop; make the tool an `async def`")
        return actor


async def drive_turn(
    shared: Shared, actor: ThreadActor, turn_id: str, request: Request, toolbox: Toolbox, context: ToolContext
) -> None:
    """Run the turn `turn_id`. Whatever happens, its last step is `TurnEnded`; a stale task's steps are dropped."""
    thread_id = actor.thread_id  # read by the watchdog
    box = actor.actor_inbox
    error: str | None = f"the turn of thread {thread_id} was cancelled from outside the runtime"
    cause: CodexError | None = None
    model = shared.model.model

    async def after(compaction: Prompt, request: Request) -> Prompt | None:
        async with aclosing(cast("AsyncGenerator[SummaryStep]", summarize(compaction, model))) as steps:
            async for step in steps:
                box.put_step(actor, (turn_id, step))
        return None if request.prompt is None else await next_prompt()

    async def next_prompt() -> Prompt:
        answer: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        box.put_step(actor, (turn_id, TakeInput(answer)))
        request = await answer
        prompt = request.prompt
        if request.compaction is not None:
            prompt = await after(request.compaction, request)
        assert prompt is not None  # only the first request of a turn may have none
        return prompt

    try:
        if not shared.model.is_open:
            await shared.model.ready()
        deltas = 0
        prompt = request.prompt
        if request.compaction is not None:
            prompt = await after(request.compaction, request)
        del request
        if prompt is None:
            error = None
            return
        schema, said = prompt.output_schema, None
        steps = cast("AsyncGenerator[Step]", run_turn(prompt, next_prompt, model, toolbox, context))
        async with aclosing(steps):
            async for step in steps:
                if not box.put_step(actor, (turn_id, step)):
                    await box.room()
                if type(step) in DELTA_STEPS:
                    deltas += 1
                    if deltas % DELTAS_PER_SLICE == 0:
                        await asyncio.sleep(0)
                elif schema is not None and type(step) is ItemDone and isinstance(step.item, Message):
                    said = step.item.text
        if schema is not None:
            problem = await in_os_thread(partial(output_problem, said, schema))
            if problem is not None:
                box.put_step(actor, (turn_id, WrongOutput(problem)))
        error = None
    except asyncio.CancelledError as raised:
        task = asyncio.current_task()
        if task is None or not task.cancelling():  # nobody cancelled it: the model raised this by itself
            error = _text(raised)
    except CodexError as raised:
        error, cause = str(raised), _alone(raised)
    except KeyboardInterrupt:
        error = "interrupted by the keyboard"
        raise
    except BaseException as raised:
        error = _text(raised)
    finally:
        box.put_step(actor, (turn_id, TurnEnded(error, cause)))


def _alone(error: CodexError) -> CodexError:
    """The error without the frames it came through: a result that is kept must keep nothing of the turn alive."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
