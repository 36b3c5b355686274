"""How a manager ends: every thread shut down within a bound, every line written, every wait answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codex_actors.actors import messages
from codex_actors.actors.shared import Shared
from codex_actors.actors.thread import ThreadActor
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import Shutdown, Submission
from codex_actors.runtime.mailbox import unheeded
from codex_actors.runtime.reply import in_os_thread

STOPS_PER_ROUND = 64
"""Threads that are ended before the loop serves others."""


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What a close did.

    Attributes:
        completed: The threads that ended, sorted.
        timed_out: Those that had not ended within `close_timeout_s`, sorted.
        unwritten: Rollouts with lines that could not be written, and why.
        abandoned_tools: Tools that ignore their end: their OS threads or tasks are left behind, and do not hold the exit.
        dead_letters: Messages that could not be delivered (the newest 1,000 are counted).
        is_drained: Whether the writer finished in time.
    """

    completed: tuple[ThreadId, ...] = ()
    timed_out: tuple[ThreadId, ...] = ()
    unwritten: tuple[tuple[Path, str], ...] = ()
    abandoned_tools: int = 0
    dead_letters: int = 0
    is_drained: bool = True


async def close_down(shared: Shared, actors: Sequence[ThreadActor], hurry: asyncio.Event) -> CloseReport:
    """Shut the threads down, newest first, and everything they shared.

    Setting `hurry` cuts the grace for turns and tools to 0, not the writing. Runs in: a task on the manager's loop.
    """
    loop, limit_s = shared.pump.loop, shared.config.close_timeout_s
    until_s = loop.time() + limit_s
    hurried = loop.create_task(hurry.wait(), context=shared.pump.context.copy())
    ended = _ended(loop, actors)
    for actor in reversed(actors):
        if not actor.has_ended:
            shutdown = Submission(id=str(shared.clock.uuid7()), op=Shutdown())
            actor.actor_inbox.put(unheeded(messages.SubmitOp(shutdown)))
    either: set[asyncio.Future[Any]] = {ended, hurried}
    await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    # Whom the time was too short for ends now, before its turn's task is cancelled: a turn is interrupted, never failed.
    for number, actor in enumerate(reversed(actors)):
        actor.stop_now()
        if number % STOPS_PER_ROUND == 0:
            await asyncio.sleep(0)
    await _end_tasks(shared, hurried, until_s)
    hurried.cancel()
    shared.watchdog.close()
    shared.workers.close()
    shared.unwritten.close()
    is_drained = await _drain(shared, limit_s)
    await asyncio.sleep(0)  # the writer's last acknowledgements are in the pump: they end the last threads
    completed = sorted(actor.thread_id for actor in actors if actor.has_ended)
    report = CloseReport(
        completed=tuple(completed),
        timed_out=tuple(sorted(actor.thread_id for actor in actors if not actor.has_ended)),
        unwritten=shared.lacking(),
        abandoned_tools=shared.workers.abandoned + len(shared.workers.tasks),
        dead_letters=len(shared.pump.dead_letters),
        is_drained=is_drained,
    )
    return report


def _ended(loop: asyncio.AbstractEventLoop, actors: Sequence[ThreadActor]) -> asyncio.Future[None]:
    """Done when all have ended."""
    ended: asyncio.Future[None] = loop.create_future()
    left = set(actors)

    def look(actor: ThreadActor) -> bool:
        if actor.has_ended:
            left.discard(actor)
            if not left and not ended.done():
                ended.set_result(None)
        return actor.has_ended

    for actor in actors:
        actor.cell.wait(partial(look, actor))
    if not actors:
        ended.set_result(None)
    return ended


async def _end_tasks(shared: Shared, hurried: asyncio.Task[bool], until_s: float) -> None:
    """Give turn tasks and tools what is left of the grace, then the model its leave."""
    loop = shared.pump.loop
    for task in (*shared.turns, *shared.workers.tasks):
        task.cancel()
    while (tasks := {*shared.turns, *shared.workers.tasks}) and loop.time() < until_s and not hurried.done():
        await asyncio.wait({*tasks, hurried}, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED)
    try:
        async with asyncio.timeout(max(until_s - loop.time(), 0.1)):
            await shared.model.close()
    except TimeoutError:
        return


async def _drain(shared: Shared, limit_s: float) -> bool:
    def drain() -> bool:
        is_drained = shared.writer.close(limit_s)
        shared.close_files()
        return is_drained

    # Without an OS thread a simulated close is the seed's alone (`test_same_seed_replays_the_same_trace`).
    is_unused = shared.writer.is_unused and shared.claims is None
    return is_unused or bool(await in_os_thread(drain))
