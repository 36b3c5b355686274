"""What each op of a client does to its thread.

Source: `codex-rs/core/src/codex.rs`, `submission_loop` and `handlers`. Runs in: the loop's OS thread, all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from codex_actors.actors.approvals import answer_approval
from codex_actors.actors.degraded import when_writable
from codex_actors.actors.record import Answer
from codex_actors.actors.settings import apply_settings
from codex_actors.actors.turn_state import Accepted
from codex_actors.actors.turns import begin_compaction, begin_turn
from codex_actors.errors import AgentLimitReached, ExpectedTurnMismatch, NoActiveTurn
from codex_actors.protocol.events import Error, Event, ThreadRolledBack
from codex_actors.protocol.ops import (
    Compact,
    ExecApproval,
    Interrupt,
    OverrideTurnContext,
    Shutdown,
    Submission,
    ThreadRollback,
    UserInput,
    UserTurn,
)
from codex_actors.rollout.truncation import drop_last_n_user_turns
from codex_actors.runtime.actor import LATER

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def handle_op(actor: ThreadActor, submission: Submission) -> Any:
    """Take an op; its sender is told the submission id when it is accepted."""
    op, reply = submission.op, actor.reply_to
    if isinstance(op, UserInput | UserTurn):
        accepted = Accepted.of(submission, actor.sender_context)
        accepted.ack = reply
        accepted.is_patient = not actor.awaits_input  # else nothing comes of the agent, and its sender is to know

        def take() -> None:
            if isinstance(op, UserTurn) and (actor.turn is not None or _refusal(actor) is None):
                apply_settings(actor, op)
            take_in(actor, accepted)

        when_writable(actor, accepted, take)
        return LATER
    OPS[type(op)](actor, submission)
    if reply is not None:
        actor.record.show(Answer(reply, submission.id))
    if isinstance(op, Shutdown):
        actor.shut_down()
    return LATER


def take_in(actor: ThreadActor, accepted: Accepted) -> None:
    """Begin a turn with an input; while one runs it waits for that turn's next request."""
    if actor.turn is not None:
        actor.wait().add(accepted, actor.shared.config.ask_timeout_s)
        return
    refusal = _refusal(actor)
    if refusal is not None:
        accepted.fail(refusal)
        return
    # What was accepted before the thread was loaded stands in front of it.
    waiting = [] if actor.waiting is None else actor.waiting.take_inputs()
    begin_turn(actor, accepted.submission_id, accepted.context, [*waiting, accepted])
    actor.begun()


def steer(actor: ThreadActor, submission: Submission, expected_turn_id: str | None) -> Any:
    """Take an input into the running turn, or refuse it. Source: `Session::steer_input`."""
    accepted = Accepted.of(submission, actor.sender_context)
    accepted.ack = actor.reply_to
    when_writable(actor, accepted, partial(_steer, actor, accepted, expected_turn_id))
    return LATER


def _steer(actor: ThreadActor, accepted: Accepted, expected_turn_id: str | None) -> None:
    turn = actor.turn
    if turn is None or turn.is_compaction:
        accepted.fail(NoActiveTurn())
    elif expected_turn_id is not None and expected_turn_id != turn.id:
        accepted.fail(ExpectedTurnMismatch(expected_turn_id, turn.id))
    else:
        accepted.answer = turn.id
        actor.wait().add(accepted, actor.shared.config.ask_timeout_s)


def _refusal(actor: ThreadActor) -> AgentLimitReached | None:
    """Why the thread may not begin to work: too many agents of its tree do."""
    tree = actor.control.tree
    return tree.refusal(actor.config) if actor.is_agent and actor.thread_id not in tree.at_work else None


def _interrupt(actor: ThreadActor, _submission: Submission) -> None:
    actor.interrupt()


def _override(actor: ThreadActor, submission: Submission) -> None:
    assert isinstance(submission.op, OverrideTurnContext)
    apply_settings(actor, submission.op)


def _exec_approval(actor: ThreadActor, submission: Submission) -> None:
    assert isinstance(submission.op, ExecApproval)
    answer_approval(actor, submission.id, submission.op)


def _compact(actor: ThreadActor, submission: Submission) -> None:
    refusal = _refusal(actor)
    if refusal is not None:
        raise refusal
    begin_compaction(actor, submission.id, actor.sender_context)


def _roll_back(actor: ThreadActor, submission: Submission) -> None:
    assert isinstance(submission.op, ThreadRollback)
    num_turns, problem = submission.op.num_turns, None
    if num_turns == 0:
        problem = "num_turns must be >= 1"
    elif actor.turn is not None:
        problem = "Cannot rollback while a turn is in progress."
    if problem is not None:
        error = Error(message=problem, codex_error_info="thread_rollback_failed")
        actor.record.show(Event(submission.id, error))
        return
    actor.record_owed()
    event = ThreadRolledBack(num_turns=num_turns)
    actor.record.roll_back(drop_last_n_user_turns(actor.record.history, num_turns))
    if actor.record.is_begun:  # nothing of a new thread is on disk before its first turn
        actor.record.add(event)
    actor.record.show(Event(submission.id, event))


OPS: dict[type, Callable[[ThreadActor, Submission], None]] = {
    Interrupt: _interrupt,
    Shutdown: _interrupt,
    OverrideTurnContext: _override,
    ExecApproval: _exec_approval,
    Compact: _compact,
    ThreadRollback: _roll_back,
}
"""What handles an op that is no input, by its class."""
