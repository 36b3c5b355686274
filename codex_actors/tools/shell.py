"""The tool `shell_command`: a model runs a shell script. Nothing is sandboxed: the script may do what the host's user may.

Source: `codex-rs/core/src/tools/spec.rs`, `shell_command` without `login`; `exec.rs` for the limits.
"""

from __future__ import annotations

import codecs
import os
import shutil
import signal
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from codex_actors.config import is_seconds
from codex_actors.errors import InvalidRequest, UnsupportedOperation
from codex_actors.protocol.events import ExecCommandBegin, ExecCommandEnd, ExecCommandOutputDelta
from codex_actors.tools.approval import Act, Risk, approve
from codex_actors.tools.capture import Capture
from codex_actors.tools.environment import ShellEnvironment
from codex_actors.tools.process import DRAIN_S, GRACE_S, KILL_S, Child, Ending, Stream
from codex_actors.tools.safe_commands import is_dangerous, is_harmless
from codex_actors.tools.tool import Tool, ToolContext, ToolError

DEFAULT_TIMEOUT_MS = 10_000
"""The limit of a command for which the model gives none. Source: `DEFAULT_EXEC_COMMAND_TIMEOUT_MS`."""

COMMAND_BYTES = 100_000
"""The longest command: Linux takes no argument of more than 131,071 bytes."""

OUTPUT_BYTES = 32_000
"""What is kept of a command's output: less than the default of `ManagerConfig.tool_output_bytes`."""

DELTAS_BOUND = 10_000
"""Output events of one command; what it writes further stands in its end. Source: `MAX_EXEC_OUTPUT_DELTAS_PER_CALL`."""

DELTA_BYTES = 8 << 10
"""Output in one event."""

TIMED_OUT = 124
"""The exit code of a command that was ended at its limit, as in Codex and in `timeout`."""

_MARGIN_S = 10.0


def shell_tool(
    *,
    environment: ShellEnvironment | None = None,
    max_timeout_s: float = 600.0,
    output_bytes: int = OUTPUT_BYTES,
) -> Tool[..., Any]:
    """The tool `shell_command`, for `Config.tools`. It pickles.

    A script runs as `bash -c` (`sh -c` without bash) in a process group of its own, without input. All of the group is
    killed when the shell has ended, at the limit, and when the turn is interrupted (SIGTERM first, SIGKILL after 2 s);
    a process that makes a session of its own (`setsid`) escapes that, and nothing is killed when the host is.

    What a script may do is not limited. `Config.approval_policy` says when it is asked about; see `approve`.

    Args:
        environment: What a script gets of the host's environment; None leaves out what looks like a secret. That is no
            protection from a script that looks for secrets: it may read what the host's user may.
        max_timeout_s: The longest limit that a model can give.
        output_bytes: What is kept of the output. Keep it some 1,000 below `ManagerConfig.tool_output_bytes`.

    Runs in: the manager's loop.

    Raises:
        InvalidRequest: an argument is wrong.
        UnsupportedOperation: this is neither Linux nor macOS.
    """
    if os.name != "posix":
        raise UnsupportedOperation("shell_tool needs process groups, which this system does not have")
    if environment is not None and not isinstance(environment, ShellEnvironment):
        raise InvalidRequest(f"shell_tool: environment is a {type(environment).__name__}, not a ShellEnvironment")
    if not is_seconds(max_timeout_s):
        raise InvalidRequest(f"shell_tool: max_timeout_s={max_timeout_s!r} is not a number of seconds above 0")
    if not isinstance(output_bytes, int) or isinstance(output_bytes, bool) or output_bytes < 1:
        raise InvalidRequest(f"shell_tool: output_bytes={output_bytes!r} is not a whole number of bytes above 0")
    shell = _Shell(environment or ShellEnvironment(), int(max_timeout_s * 1000), output_bytes)
    # The command's own limit comes first, so that its output is not lost.
    deadline_s = max_timeout_s + GRACE_S + DRAIN_S + KILL_S + _MARGIN_S
    return Tool(shell.shell_command, timeout_s=deadline_s)


@dataclass(frozen=True, slots=True)
class _Shell:
    environment: ShellEnvironment
    max_timeout_ms: int
    output_bytes: int

    async def shell_command(
        self,
        context: ToolContext,
        command: Annotated[str, Field(description="The shell script to run.")],
        workdir: Annotated[
            str | None, Field(description="The folder to run it in; relative to the thread's, which is the default.")
        ] = None,
        timeout_ms: Annotated[
            int | None, Field(ge=1, description=f"The time limit; {DEFAULT_TIMEOUT_MS} if not given.")
        ] = None,
        sandbox_permissions: Annotated[
            Literal["use_default", "require_escalated"],
            Field(description="require_escalated asks the user to approve this command before it runs."),
        ] = "use_default",
        justification: Annotated[
            str | None, Field(description="With require_escalated: one sentence for the user on why to run it.")
        ] = None,
    ) -> str:
        """Run a shell script and return its exit code and output, stdout and stderr together.

        It has no input and no terminal. When the script ends, everything that it has started is killed: nothing goes on in
        the background. Set `workdir` instead of using `cd`.
        """
        _check(command)
        home = context.cwd or Path.cwd()
        cwd = _folder(home, workdir)
        argv = (_shell_path(), "-c", command)
        is_asked = sandbox_permissions == "require_escalated"
        risk = _risk(command, in_own_folder=cwd == home)
        await approve(context, Act(argv, cwd, risk, is_asked, justification if is_asked else None))
        limit_ms = min(timeout_ms or DEFAULT_TIMEOUT_MS, self.max_timeout_ms)
        try:
            child = await Child.start(argv, cwd=cwd, env=self.environment.of(os.environ))
        except OSError as error:
            raise ToolError(f"the command could not be started: {error.strerror or error}") from None
        run = _Run(context, argv, cwd, self.output_bytes)
        ending = await run.until_end(child, limit_ms / 1000)
        is_clamped = timeout_ms is not None and timeout_ms > limit_ms
        text = _report(ending, run.both, limit_ms, f"timeout_ms is cut to {limit_ms}, the most" if is_clamped else "")
        await run.tell_end(ending, text)
        if ending.returncode != 0 or ending.timed_out:
            raise ToolError(text)
        return text


def _shell_path() -> str:
    path = shutil.which("bash")
    # A relative folder of PATH would be looked for in the command's folder, where anything may be called bash.
    return path if path is not None and os.path.isabs(path) else "/bin/sh"


def _check(command: str) -> None:
    if not command.strip():
        raise ToolError("command is empty")
    if "\0" in command:
        raise ToolError("command holds a NUL character")
    size = len(command.encode())
    if size > COMMAND_BYTES:
        raise ToolError(f"command has {size:,} bytes, more than {COMMAND_BYTES:,}; put it into a file and run that")


def _folder(home: Path, workdir: str | None) -> Path:
    cwd = home if workdir is None else home / workdir
    if os.path.isdir(cwd):
        return cwd
    if workdir is None:
        raise ToolError(f"the thread's folder {str(home)!r} does not exist; give another one as workdir")
    raise ToolError(f"workdir {workdir!r} is not an existing folder")


def _risk(command: str, *, in_own_folder: bool) -> Risk:
    if is_harmless(command, in_own_folder=in_own_folder):
        return "harmless"
    return "dangerous" if is_dangerous(command) else "unknown"


@dataclass(slots=True)
class _Run:
    """One command of one call: its events, and what is kept of its output."""

    context: ToolContext
    argv: Sequence[str]
    cwd: Path
    output_bytes: int
    both: Capture = field(init=False)
    _apart: dict[Stream, Capture] = field(init=False)
    _decoders: dict[Stream, codecs.IncrementalDecoder] = field(init=False)
    _deltas: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        streams: tuple[Stream, ...] = ("stdout", "stderr")
        self.both = Capture(self.output_bytes)
        self._apart = {stream: Capture(self.output_bytes) for stream in streams}
        # Each has its own: a character may be written in two parts, and those of the other stream come between.
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in streams}

    async def until_end(self, child: Child, limit_s: float) -> Ending:
        try:
            await self.context.emit(
                ExecCommandBegin(
                    call_id=self.context.call_id,
                    turn_id=self.context.turn_id,
                    command=tuple(self.argv),
                    cwd=str(self.cwd),
                )
            )
            ending = await child.run(limit_s, self._take)
        except BaseException:
            await child.end()
            raise
        for stream in self._decoders:
            self._keep(stream, b"", is_end=True)
        return ending

    async def _take(self, stream: Stream, data: bytes) -> None:
        self._keep(stream, data)
        for start in range(0, len(data), DELTA_BYTES):
            if self._deltas == DELTAS_BOUND:
                return
            self._deltas += 1
            chunk = b64encode(data[start : start + DELTA_BYTES]).decode()
            await self.context.emit(ExecCommandOutputDelta(call_id=self.context.call_id, stream=stream, chunk=chunk))

    def _keep(self, stream: Stream, data: bytes, *, is_end: bool = False) -> None:
        # Decoded first: what is no UTF-8 grows when it is replaced, and the bound is on what is read.
        clean = self._decoders[stream].decode(data, is_end).encode()
        self.both.add(clean)
        self._apart[stream].add(clean)

    async def tell_end(self, ending: Ending, text: str) -> None:
        nanos = round(ending.duration_s * 1e9)
        await self.context.emit(
            ExecCommandEnd(
                call_id=self.context.call_id,
                turn_id=self.context.turn_id,
                command=tuple(self.argv),
                cwd=str(self.cwd),
                stdout=self._apart["stdout"].text(),
                stderr=self._apart["stderr"].text(),
                aggregated_output=self.both.text(),
                exit_code=_exit_code(ending),
                duration={"secs": nanos // 1_000_000_000, "nanos": nanos % 1_000_000_000},
                formatted_output=text,
            )
        )


def _exit_code(ending: Ending) -> int:
    if ending.timed_out:
        return TIMED_OUT
    return ending.returncode if ending.returncode >= 0 else 128 - ending.returncode


def _report(ending: Ending, output: Capture, limit_ms: int, note: str) -> str:
    """What the model reads."""
    lines = [f"Exit code: {_exit_code(ending)}", f"Wall time: {ending.duration_s:.1f} seconds"]
    if ending.timed_out:
        lines.append(f"Timed out: killed after {limit_ms} ms; give more with timeout_ms if it needs it")
    elif ending.returncode < 0:
        lines.append(f"Killed by: {_signal_name(-ending.returncode)}")
    if ending.left_some and not ending.timed_out:
        lines.append("Note: what it left running in the background was killed")
    if note:
        lines.append(f"Note: {note}")
    if output.is_cut:
        lines.append(f"Total output lines: {output.total_lines}")
    return "\n".join([*lines, "Output:", output.text()])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
