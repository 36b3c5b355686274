"""What a turn looks like: its answer on standard output, all else in notes on standard error."""

from __future__ import annotations

import sys
from typing import Protocol

from pydantic_core import to_json

from codex_actors import TurnResult
from codex_actors.cli.notes import Notes, call_line, command_line, harmless, script_of
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageDelta,
    ContextCompacted,
    Error,
    Event,
    EventMsg,
    ExecApprovalRequest,
    ExecCommandBegin,
    ExecCommandEnd,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    Lagged,
    StreamErrorEvent,
    StreamOverrun,
    TaskStarted,
    TokenCount,
    Warning,
)


class Screen(Protocol):
    """Where the events of a thread go."""

    notes: Notes

    def show(self, event: Event) -> None:
        """The next event."""
        ...

    def end(self, result: TurnResult | None) -> None:
        """Nothing more comes; None where that was not awaited."""
        ...


class LinesScreen:
    """One event per line, as JSON."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def show(self, event: Event) -> None:
        """A line: `{"id", "msg"}`."""
        sys.stdout.buffer.write(to_json({"id": event.id, "msg": event.msg}) + b"\n")  # UTF-8 everywhere: it is JSON
        sys.stdout.buffer.flush()
        if isinstance(event.msg, Error):
            self.notes.say(f"error: {event.msg.message}")

    def end(self, result: TurnResult | None) -> None:
        """All is written."""


class TextScreen:
    """The answer as text.

    On a terminal each message is written as it comes. Elsewhere standard output gets the last one alone, when it is known
    to be the last; those before it are notes.
    """

    def __init__(self, notes: Notes, *, streams: bool) -> None:
        self.notes = notes
        self._streams = streams
        self._said: str | None = None
        self._streamed = ""
        self._tokens = 0
        self._commands: set[str] = set()

    def show(self, event: Event) -> None:
        """Show what it says to a reader; most events say nothing."""
        match event.msg:
            case AgentMessageDelta(delta=delta):
                self._stream(delta)
            case AgentMessage(message=message):
                self._whole(message)
            case TokenCount(info=info) if info is not None:
                self._tokens = info.total_token_usage.total_tokens
                self._busy("working")
            case TaskStarted():
                self._busy("thinking")
            case ItemStarted(item=FunctionCallItem(name=name)):
                self._busy(name)
            case ExecCommandBegin(command=command):
                self._busy(f"$ {script_of(command)}")
            case ExecApprovalRequest():
                self._break()
            case msg:
                self._note(msg)

    def _note(self, msg: EventMsg) -> None:
        match msg:
            case ExecCommandEnd(call_id=call_id):
                self._commands.add(call_id)
                self._line(command_line(msg, self.notes.width), "dim")
            case ItemCompleted(item=FunctionCallItem(id=call_id) as call):
                if call_id not in self._commands:
                    self._line(call_line(call, self.notes.width), "dim")
                self._busy("thinking")
            case Error(message=message):
                self._line(f"error: {message}", "bold red")
            case Warning(message=message):
                self._line(f"warning: {message}", "yellow")
            case StreamErrorEvent(message=message):
                self._break()
                self._line(f"once more: {message}", "yellow")
            case ContextCompacted():
                self._line("the history was replaced by a summary", "dim")
            case Lagged(missed=missed):
                self._line(f"warning: {missed} events came too fast to be shown", "yellow")
            case StreamOverrun(missed=missed):
                self._line(f"warning: {missed} or more events came too fast; the thread's file has them", "yellow")

    def end(self, result: TurnResult | None) -> None:
        """Write what is left of the answer."""
        self._break()
        self.notes.rest()
        if self._streams or self._said is None:
            return
        if result is not None and result.status.word == "completed":
            _write(self._said if self._said.endswith("\n") else f"{self._said}\n")
        else:
            self.notes.say(self._said)  # no answer: its turn has not come to an end of its own

    def _stream(self, delta: str) -> None:
        if self._streams:
            self.notes.rest()
            self._streamed += delta
            _write(harmless(delta))

    def _whole(self, message: str) -> None:
        if self._streams:
            self.notes.rest()
            # Deltas may have been missed, and a model need not stream at all.
            if message.startswith(self._streamed):
                _write(harmless(message[len(self._streamed) :]))
            else:
                _write(f"\n{harmless(message)}")
            self._streamed = ""
            if not message.endswith("\n"):
                _write("\n")
        elif self._said is not None:
            self.notes.say(self._said)
        self._said = message

    def _break(self) -> None:
        """What was streamed of a message that will not be whole keeps its line to itself."""
        if self._streamed:
            _write("\n")
            self._streamed = ""

    def _line(self, text: str, style: str) -> None:
        self._break()
        self.notes.say(text, style)

    def _busy(self, what: str) -> None:
        if not self._streamed:
            self.notes.busy(f"{what} · {self._tokens:,} tokens" if self._tokens else what)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
