"""What a thread was given that its model has not seen yet: inputs, and how its agents have fared.

Source: `codex-rs/core/src/codex.rs`, `SUBMISSION_CHANNEL_CAPACITY`; `agent/control.rs` (`<subagent_notification>`).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable

from codex_actors.actors.record import Answer, ThreadRecord
from codex_actors.actors.turn_state import Accepted
from codex_actors.errors import InputRefused
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.pump import Pump

INPUT_BOUND = 64
"""Inputs that wait for a running turn; further ones wait to be accepted."""

PATIENCE = 0.9
"""After this part of its sender's deadline such an input is refused: the sender learns it by that, not by the deadline."""


class Waiting:
    """Inputs in the order sent, and notices. Runs in: the loop's OS thread, all of it."""

    __slots__ = ("_pump", "_record", "inputs", "notices")

    def __init__(self, record: ThreadRecord, pump: Pump, inputs: Iterable[Accepted] = ()) -> None:
        self._record = record
        self._pump = pump
        self.inputs = deque(inputs)
        self.notices: list[Message] = []

    def add(self, accepted: Accepted, timeout_s: float) -> None:
        """Accept an input that a later model request will take in: durable before its sender hears of it. Beyond the bound
        it waits to be accepted, for nearly `timeout_s`."""
        self.inputs.append(accepted)
        if len(self.inputs) <= INPUT_BOUND:
            accepted.is_recorded = True
            self._record.add(accepted.line())
            acknowledge(self._record, accepted)
        else:
            self._pump.loop.call_later(timeout_s * PATIENCE, self._refuse, accepted)

    def _refuse(self, accepted: Accepted) -> None:
        if not accepted.is_recorded and accepted in self.inputs:
            self.inputs.remove(accepted)
            accepted.fail(InputRefused(INPUT_BOUND))

    def holds(self, submission_id: str) -> bool:
        """Whether this input waits."""
        return any(accepted.submission_id == submission_id for accepted in self.inputs)

    def take_inputs(self) -> list[Accepted]:
        """All inputs, which no longer wait."""
        inputs, self.inputs = list(self.inputs), deque()
        return inputs

    def take_notices(self) -> list[Message]:
        """All notices, which no longer wait."""
        notices, self.notices = self.notices, []
        return notices


def acknowledge(record: ThreadRecord, accepted: Accepted) -> None:
    """Tell its sender that an input is accepted, as soon as what was recorded of it is kept."""
    ack, accepted.ack = accepted.ack, None
    if ack is not None:
        record.show(Answer(ack, accepted.answer or accepted.submission_id, accepted.is_patient))


def notice_of(thread_id: ThreadId, status: AgentStatus) -> Message:
    """What the parent's model reads of an agent: a user message that is no user's (`rollout.truncation` knows it)."""
    told = json.dumps({"agent_id": thread_id, "status": status.to_wire()}, ensure_ascii=False)
    text = f"<subagent_notification>\n{told}\n</subagent_notification>"
    return Message(role="user", content=(InputText(text=text),))
