"""The approval requests of a running turn: each has its own id and deadline, and is answered once.

Source: `codex-rs/core/src/codex.rs`, `request_command_approval` and `notify_approval`. Codex keys them by the turn, so that
two at once overwrite each other; here each is one of its own. Runs in: the loop's OS thread, all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from codex_actors.actors.turn_state import Turn
from codex_actors.protocol.events import Event, ExecApprovalRequest, Warning
from codex_actors.protocol.ops import ExecApproval, ReviewDecision

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


@dataclass(frozen=True, slots=True)
class AskApproval:
    """A step of a turn: a tool call asks whether it may run `command`."""

    call_id: str
    command: tuple[str, ...]
    cwd: str
    reason: str | None
    answer: asyncio.Future[ReviewDecision]


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """A request that nobody has answered; `expire` is what its deadline calls."""

    asked: AskApproval
    expire: Callable[[], None]


def ask_approval(actor: ThreadActor, turn: Turn, step: AskApproval) -> None:
    """Show a request, unless the same command was approved for as long as the thread lives."""
    if step.answer.done():  # its call was cut meanwhile
        return
    if (step.command, step.cwd) in actor.approved:
        step.answer.set_result("approved")
        return
    approval_id = str.__str__(actor.shared.clock.uuid7())
    limit_s = actor.shared.config.approval_timeout_s
    opened = OpenApproval(step, partial(_expire, actor, turn, approval_id, limit_s))
    turn.approvals = turn.approvals or {}
    turn.approvals[approval_id] = opened
    actor.pump.deadlines(limit_s).set(opened.expire)
    request = ExecApprovalRequest(
        call_id=step.call_id,
        approval_id=approval_id,
        turn_id=turn.id,
        command=step.command,
        cwd=step.cwd,
        reason=step.reason,
        timeout_s=limit_s,
    )
    actor.emit(turn, request)


def answer_approval(actor: ThreadActor, submission_id: str, op: ExecApproval) -> None:
    """Give an open request its answer; `abort` also interrupts the turn."""
    opened = None if actor.turn is None else _taken(actor, actor.turn, op.id)
    if opened is None or opened.asked.answer.done():
        text = f"no approval request {op.id!r} is open: it was answered, timed out, or its call or turn has ended"
        actor.record.show(Event(submission_id, Warning(message=text)))
        return
    asked = opened.asked
    if op.decision == "approved_for_session":
        actor.approved |= {(asked.command, asked.cwd)}
    asked.answer.set_result(op.decision)
    if op.decision == "abort":
        actor.interrupt()


def drop_approvals(actor: ThreadActor, turn: Turn) -> None:
    """The turn ends: nobody can answer what it still asks, and the calls that ask are cut with it."""
    for approval_id in list(turn.approvals or ()):
        _taken(actor, turn, approval_id)
    for answer in list(turn.answers or ()):
        answer.cancel()


def _taken(actor: ThreadActor, turn: Turn, approval_id: str) -> OpenApproval | None:
    opened = None if turn.approvals is None else turn.approvals.pop(approval_id, None)
    if opened is not None:
        actor.pump.deadlines(actor.shared.config.approval_timeout_s).discard(opened.expire)
    return opened


def _expire(actor: ThreadActor, turn: Turn, approval_id: str, limit_s: float) -> None:
    opened = None if turn.approvals is None else turn.approvals.pop(approval_id, None)
    if opened is None or opened.asked.answer.done() or actor.turn is not turn:
        return
    command = " ".join(opened.asked.command)
    text = f"approval request {approval_id} was not answered within {limit_s:g} s, so it is denied: {command}"
    actor.emit(turn, Warning(message=text))
    opened.asked.answer.set_result("denied")
