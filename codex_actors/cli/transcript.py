"""A thread's file as turns that can be read, from its lines as they stand there. Pure, but for the reading.

It shows what the file says, also where the runtime would refuse to go on with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from codex_actors.errors import RolloutError
from codex_actors.protocol.items import Message
from codex_actors.rollout.damage import Damage
from codex_actors.rollout.pieces import pieces
from codex_actors.rollout.truncation import is_user_message

StepKind = Literal["user", "assistant", "reasoning", "call", "note"]


@dataclass(slots=True)
class Step:
    """One thing that happened in a turn.

    Attributes:
        text: What was said; of a call, its output, or None where it has none.
        name: Of a call, the tool's.
        arguments: Of a call, as the model wrote them.
        duration_ms: Of a call, from its line to that of its output.
    """

    kind: StepKind
    text: str | None
    at: str
    name: str | None = None
    arguments: str | None = None
    duration_ms: int | None = None


@dataclass(slots=True)
class Turn:
    """What followed on one user message.

    Attributes:
        status: `completed`, `interrupted` (also one that was cut) or `errored`.
        duration_ms: As recorded, else from its first line to its last.
        tokens: What it has used; None where no model's server counted.
        is_rolled_back: Whether the model no longer sees it.
    """

    began: str
    status: str = "interrupted"
    duration_ms: int = 0
    tokens: int | None = None
    error: str | None = None
    is_rolled_back: bool = False
    steps: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class Transcript:
    """The turns of a thread, oldest first, and what of its file cannot be read.

    Attributes:
        inherited: The thread whose file has what came before the first line of this one (newer Codex forks so), or None.
    """

    turns: list[Turn] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    lines: int = 0
    inherited: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """A JSON object with these fields."""
        return asdict(self)


def read_transcript(path: Path) -> Transcript:
    """What the file says.

    Raises:
        RolloutError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return transcript_of(file)
    except OSError as error:
        raise RolloutError(path, f"cannot read the rollout ({error.strerror})") from error


def transcript_of(lines: Iterable[bytes]) -> Transcript:
    """What these lines say, each with its newline."""
    reading = _Reading()
    for value in _objects(lines, reading.made):
        reading.take(value)
    return reading.made


def _objects(lines: Iterable[bytes], made: Transcript) -> Iterator[dict[str, Any]]:
    for piece in pieces(lines):
        if not piece.data.isspace():
            made.lines += 1
            if piece.what:
                made.damage.append(Damage(piece.start, piece.start + len(piece.data), piece.line, piece.what))
            else:
                yield from_json(piece.data)


class _Reading:
    """The turns as far as they are known."""

    def __init__(self) -> None:
        self.made = Transcript()
        self._calls: dict[str, Step] = {}
        self._accepted: set[str] = set()
        self._is_explicit = False
        """Whether the file says where turns begin, and one has begun that has no user message yet, or has not ended."""
        self._is_answered = self._has_calls = False
        self._total = 0
        self._at = ""

    def take(self, value: dict[str, Any]) -> None:
        payload = value.get("payload")
        if not isinstance(payload, dict):
            return
        self._at = value["timestamp"] if isinstance(value.get("timestamp"), str) else self._at
        match value["type"]:
            case "session_meta":
                self._meta(payload)
            case "response_item":
                self._item(payload, value.get("submission_id"))
            case "event_msg":
                self._event(payload)
            case "compacted":
                self._step("note", f"the history was replaced by a summary: {payload.get('message', '')}")
            case "codex_actors" if isinstance(payload.get("submission_id"), str):
                self._accepted.add(payload["submission_id"])

    def _meta(self, payload: dict[str, Any]) -> None:
        base = payload.get("history_base")
        if isinstance(base, dict) and isinstance(base.get("thread_id"), str):
            self.made.inherited = base["thread_id"]

    def _turn(self) -> Turn | None:
        return self.made.turns[-1] if self.made.turns else None

    def _step(self, kind: StepKind, text: str | None) -> Step:
        step = Step(kind, text, self._at)
        turn = self._turn()
        if turn is not None:
            turn.steps.append(step)
            turn.duration_ms = _between_ms(turn.began, self._at)
        return step

    def _item(self, payload: dict[str, Any], submission_id: Any) -> None:
        match payload:
            case {"type": "message", "role": "user"} if _is_said(payload):
                self._user(_texts(payload.get("content")), is_steered=submission_id in self._accepted)
            case {"type": "message", "role": "assistant"}:
                self._step("assistant", _texts(payload.get("content")))
                self._is_answered = True
            case {"type": "reasoning", "summary": list(summary)} if summary:
                self._step("reasoning", _texts(summary))
            case {"type": "function_call" | "custom_tool_call" | "local_shell_call" | "web_search_call"}:
                self._call(payload)
            case {"type": "function_call_output" | "custom_tool_call_output", "call_id": str(call_id)}:
                step = self._calls.pop(call_id, None)
                if step is not None:
                    step.text = _output(payload.get("output"))
                    step.duration_ms = _between_ms(step.at, self._at)
                    self._touch()

    def _user(self, text: str, *, is_steered: bool) -> None:
        turn = self._turn()
        joins = turn is not None and (is_steered or self._is_explicit)
        if not joins:
            self.made.turns.append(Turn(self._at))
            self._is_answered = self._has_calls = False
        self._is_explicit = self._is_explicit and joins
        self._step("user", text)

    def _call(self, payload: dict[str, Any]) -> None:
        step = self._step("call", None)
        action = payload.get("action")
        step.name = str(payload.get("name") or payload.get("type"))
        asked = payload.get("arguments", payload.get("input", action))
        step.arguments = asked if isinstance(asked, str) else _output(asked)
        call_id = payload.get("call_id") or payload.get("id")
        if isinstance(call_id, str) and payload.get("type") != "web_search_call":
            self._calls[call_id] = step
        self._has_calls = True

    def _event(self, payload: dict[str, Any]) -> None:
        match payload:
            case {"type": "task_started" | "turn_started"}:
                self.made.turns.append(Turn(self._at))
                self._is_explicit, self._is_answered, self._has_calls = True, False, False
            case {"type": "token_count", "info": {"total_token_usage": {"total_tokens": int(total)}}}:
                self._count(total)
            case {"type": "token_count"}:
                self._is_answered = self._has_calls = False
            case {"type": "task_complete" | "turn_complete"}:
                self._end(payload)
            case {"type": "turn_aborted", "reason": str(reason)}:
                self._end({"error": None if reason == "interrupted" else reason}, status="interrupted")
            case {"type": "error", "message": str(message)}:
                self._step("note", f"error: {message}")
            case {"type": "thread_rolled_back", "num_turns": int(count)}:
                self._roll_back(count)

    def _count(self, total: int) -> None:
        turn = self._turn()
        if turn is not None:
            turn.tokens = (turn.tokens or 0) + max(0, total - self._total)
            if self._is_answered and not self._has_calls and not self._is_explicit:
                turn.status = "completed"
            self._touch()
        self._total = total
        self._is_answered = self._has_calls = False

    def _end(self, payload: dict[str, Any], status: str = "completed") -> None:
        turn = self._turn()
        self._is_explicit = False
        if turn is None:
            return
        error, duration_ms = payload.get("error"), payload.get("duration_ms")
        turn.status = status if error is None else "errored"
        turn.error = None if error is None else error if isinstance(error, str) else _output(error)
        self._touch()
        if isinstance(duration_ms, int):
            turn.duration_ms = duration_ms

    def _roll_back(self, count: int) -> None:
        left = count
        for turn in reversed(self.made.turns):
            if left <= 0:
                break
            if not turn.is_rolled_back:
                turn.is_rolled_back = True
                left -= 1

    def _touch(self) -> None:
        turn = self._turn()
        if turn is not None:
            turn.duration_ms = _between_ms(turn.began, self._at)


def _is_said(payload: dict[str, Any]) -> bool:
    try:
        return is_user_message(Message.model_validate(payload))
    except ValidationError:
        return False


def _texts(content: Any) -> str:
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    found = [part.get("text", f"[{part.get('type', 'part')}]") for part in content if isinstance(part, dict)]
    return "\n".join(text for text in found if isinstance(text, str))


def _output(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _texts(value)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return str(value["content"])
    return "" if value is None else to_json(value).decode()


def _between_ms(begin: str, end: str) -> int:
    try:
        return max(0, round((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds() * 1000))
    except (ValueError, TypeError):
        return 0
