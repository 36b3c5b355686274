"""What stands beside the answer, on standard error: plain lines, or on a terminal Rich's, with a spinner."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys

from rich.console import Console
from rich.status import Status
from rich.text import Text

from codex_actors.protocol.events import ExecCommandEnd, FunctionCallItem

_MARKS = {number: 0x2400 + number for number in range(0x20) if number not in (0x09, 0x0A)}
_HIDDEN = (0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {**_MARKS, **dict.fromkeys(_HIDDEN, 0xFFFD)}

SHOW_CURSOR = b"\x1b[?25h"


def harmless(text: str) -> str:
    """`text` without what a terminal obeys: a command that is to be approved must not be able to hide itself."""
    return text.translate(_SHOWN)


def one_line(text: str, width: int) -> str:
    """`text` as one line of at most `width` characters."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


class Notes:
    """Plain lines: no colour, no spinner. `busy` and `rest` say when the model or a tool works.

    Nothing in them is obeyed by a terminal, wherever they go.
    """

    width = 160

    def say(self, text: str, style: str = "") -> None:
        """One line, or several."""
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()

    def ask(self, question: str) -> None:
        """A question; the answer is typed behind it, and nothing spins until `asked`."""
        sys.stderr.write(harmless(question))
        sys.stderr.flush()

    def asked(self) -> None:
        """The question has its answer, or is void."""

    def busy(self, what: str) -> None:
        """Something works."""

    def rest(self) -> None:
        """Nothing does, or the line is needed for something else."""


class TerminalNotes(Notes):
    """On a terminal. `NO_COLOR` is honoured by Rich."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._status: Status | None = None
        self._is_asking = False
        self.width = max(40, shutil.get_terminal_size().columns - 1)

    def say(self, text: str, style: str = "") -> None:
        """One line, or several; what spins stands below it."""
        self._console.print(Text(harmless(text), style=style), soft_wrap=True)

    def ask(self, question: str) -> None:
        """A question; nothing spins meanwhile."""
        self.rest()
        self._is_asking = True
        super().ask(question)

    def asked(self) -> None:
        """The question has its answer, or is void."""
        self._is_asking = False

    def busy(self, what: str) -> None:
        """Spin, with this text behind it."""
        if self._is_asking:
            return
        if self._status is None:
            self._status = Status(Text(what, style="dim"), console=self._console)
            self._status.start()
        else:
            self._status.update(Text(what, style="dim"))

    def rest(self) -> None:
        """Stop spinning, and leave no trace of it."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def notes_for_stderr() -> Notes:
    """Rich's where standard error is a terminal that can do more than a typewriter."""
    is_able = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
    return TerminalNotes() if is_able else Notes()


def call_line(call: FunctionCallItem, width: int) -> str:
    """A finished tool call: its name, its arguments, and how its output begins."""
    mark = "✓" if call.success else "✗"
    told = one_line(call.output or "", width)
    head = one_line(f"{mark} {call.name} {_arguments(call.arguments)}", max(20, width - min(len(told), width // 2) - 4))
    return one_line(f"{head} → {told}" if told else head, width)


def command_line(end: ExecCommandEnd, width: int) -> str:
    """A finished command: what was run, and how it ended."""
    seconds = end.duration.get("secs", 0) + end.duration.get("nanos", 0) / 1e9
    tail = f" → exit {end.exit_code}, {seconds:.1f} s"
    mark = "✓" if end.exit_code == 0 else "✗"
    return one_line(f"{mark} $ {script_of(end.command)}", max(20, width - len(tail))) + tail


def script_of(command: tuple[str, ...]) -> str:
    """The command as a shell would be given it; of `sh -c SCRIPT` the script alone."""
    if len(command) == 3 and command[1] in ("-c", "-lc"):
        return command[2]
    return shlex.join(command)


def _arguments(text: str) -> str:
    """A model's arguments without the noise of JSON, where they are an object."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return text
    if not isinstance(values, dict):
        return text
    return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
