"""What a thread does while its rollout cannot be written: it goes on for a while, takes nothing in, and says so.

Runs in: the loop's OS thread, all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from codex_actors.actors.fencing import fence, give_up
from codex_actors.actors.turn_state import Accepted
from codex_actors.actors.turns import begin_turn, end_turn
from codex_actors.errors import InternalAgentDied, RolloutError, RolloutUnavailable, WriterConflict
from codex_actors.protocol.events import Error, Event, Warning
from codex_actors.protocol.ids import INITIAL_SUBMIT_ID

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def when_writable(actor: ThreadActor, accepted: Accepted, then: Callable[[], None]) -> None:
    """Call `then`, which takes `accepted` in, unless the thread is degraded and stays so: that refuses it."""

    def resume() -> None:
        if actor.phase in ("stopping", "ended"):
            accepted.fail(InternalAgentDied("the thread has ended"))
        else:
            actor.go_on(then)

    if actor.record.is_degraded:
        actor.record.when_writable(resume, accepted.fail)
    else:
        then()


def on_unwritten(actor: ThreadActor, error: RolloutError, is_first: bool) -> None:
    """The rollout could not be written. What may pass is waited for; anything else fails what waits for it."""
    if actor.phase in ("stopping", "ended"):
        actor.record.refuse(error)
        give_up(actor, error)
    elif isinstance(error, WriterConflict):
        fence(actor, error)
    elif not isinstance(error, RolloutUnavailable):
        actor.record.refuse(error)
        if is_first:
            actor.watchers.publish(Event(_event_id(actor), Error(message=str(error))))
        if actor.turn is not None:
            _fail_results(actor, error)
            end_turn(actor, error=str(error))
    elif is_first:
        _warn(actor, str(error))


def on_written(actor: ThreadActor) -> None:
    """The disk is back: what was accepted behind an aborted turn has its own one now."""
    inputs = actor.waiting.take_inputs() if actor.has_held_inputs and actor.waiting is not None else []
    actor.has_held_inputs = False
    if inputs and actor.turn is None and actor.phase == "idle":
        actor.go_on(lambda: begin_turn(actor, inputs[0].submission_id, inputs[0].context, inputs))


def on_patience_lost(actor: ThreadActor, error: RolloutError) -> None:
    """It has lasted too long: nobody is kept waiting, and no line is forgotten."""
    actor.record.refuse(error)
    _fail_results(actor, error)


def drop_held_inputs(actor: ThreadActor) -> None:
    """The thread ends before the disk is back: the inputs stand in its file, and nobody waits for them."""
    if actor.has_held_inputs and actor.waiting is not None:
        actor.has_held_inputs = False
        for accepted in actor.waiting.take_inputs():
            accepted.fail(InternalAgentDied("the thread ended before its turn"))


def on_too_much(actor: ThreadActor, error: RolloutUnavailable) -> None:
    """No turn may add to what waits."""
    if actor.turn is None:
        return
    _warn(actor, f"the turn is aborted, as too much waits to be written: {error}")
    # Not at once with what was accepted behind it: that would only wait, too.
    end_turn(actor, error=str(error), cause=error, begins_next=False)
    actor.has_held_inputs = actor.waiting is not None and bool(actor.waiting.inputs)
    if actor.is_released:
        actor.shut_down()


def _fail_results(actor: ThreadActor, error: RolloutError) -> None:
    replies = [] if actor.turn is None else actor.turn.results
    if actor.turn is not None:
        actor.turn.results = []
    for accepted in () if actor.waiting is None else actor.waiting.inputs:
        if accepted.result is not None:
            replies.append(accepted.result)
            accepted.result = None
    for reply in replies:
        reply.fail(error)


def _warn(actor: ThreadActor, message: str) -> None:
    """At once: behind lines that cannot be written it would wait for them."""
    actor.watchers.publish(Event(_event_id(actor), Warning(message=message)))


def _event_id(actor: ThreadActor) -> str:
    return INITIAL_SUBMIT_ID if actor.turn is None else actor.turn.id
