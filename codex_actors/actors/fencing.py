"""How a thread ends whose rollout somebody else writes now: what others see of it must not differ from its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codex_actors.actors.turns import end_turn
from codex_actors.errors import RolloutError, WriterConflict
from codex_actors.protocol.events import Error, Event, ShutdownComplete, TaskComplete, Warning
from codex_actors.protocol.ids import INITIAL_SUBMIT_ID
from codex_actors.protocol.status import Ended
from codex_actors.protocol.wire import made
from codex_actors.rollout.claims import FENCED_SUFFIX

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def fence(actor: ThreadActor, conflict: WriterConflict) -> None:
    """End the `ThreadActor`. What waits for lines that were refused is refused too; its turn fails.

    Source: none; Codex has no way to take a thread over.
    """
    actor.record.refuse(conflict)
    turn = actor.turn
    submission_id = INITIAL_SUBMIT_ID if turn is None else turn.id
    lost = f"{conflict}; what of this thread was not kept is in {conflict.path.name}{FENCED_SUFFIX}"
    actor.watchers.publish(Event(submission_id, Error(message=str(conflict))))
    actor.watchers.publish(Event(submission_id, Warning(message=lost)))
    if turn is not None:
        for reply in turn.results:
            reply.fail(conflict)
        end_turn(actor, error=str(conflict))
    actor.leave(Ended(actor.thread_id, "fenced", str(conflict)))


def give_up(actor: ThreadActor, error: RolloutError) -> None:
    """It ends, and what it recorded last is not written: who watches is owed its end at least."""
    for effect in actor.record.give_up():
        if not isinstance(effect, Event):
            effect()
        elif isinstance(effect.msg, TaskComplete) and isinstance(error, WriterConflict):
            failed = made(
                TaskComplete, turn_id=effect.msg.turn_id, error=str(error)
            )  # whatever it was, the file has it not
            actor.watchers.publish(Event(effect.id, failed))
        elif isinstance(effect.msg, TaskComplete | ShutdownComplete | Error):
            actor.watchers.publish(effect)
        else:
            actor.pump.refuse(effect, str(error))
