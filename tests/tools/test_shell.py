from __future__ import annotations

import asyncio
import json
import os
import pickle
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from codex_actors import Config, Interrupt, ManagerConfig, ScriptedModel, ThreadManager
from codex_actors.errors import InvalidRequest
from codex_actors.protocol.events import EventMsg, ExecCommandBegin, ExecCommandEnd, ExecCommandOutputDelta
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.protocol.ops import ReviewDecision
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.workers import Workers
from codex_actors.testing import no_leaks
from codex_actors.tools import process, shell
from codex_actors.tools.environment import ShellEnvironment
from codex_actors.tools.shell import shell_tool
from codex_actors.tools.tool import Tool, ToolContext, ToolError, spec
from codex_actors.tools.toolbox import Toolbox

WAIT_S = 30.0
THREAD = ThreadId("0193b5b8-0000-7000-8000-000000000001")
TOOL = shell_tool()


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    with no_leaks():
        yield


class Road:
    """The road to a turn that keeps its events, and to somebody who answers each request the same way."""

    def __init__(self, decision: ReviewDecision = "approved") -> None:
        self.decision = decision
        self.events: list[EventMsg] = []
        self.requests: list[tuple[str, tuple[str, ...], str, str | None]] = []
        self.has_output = asyncio.Event()

    async def emit(self, msg: EventMsg) -> None:
        self.events.append(msg)
        if isinstance(msg, ExecCommandOutputDelta):
            self.has_output.set()

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        self.requests.append((call_id, command, cwd, reason))
        return self.decision

    def written(self, stream: str) -> bytes:
        deltas = [event for event in self.events if isinstance(event, ExecCommandOutputDelta)]
        return b"".join(b64decode(delta.chunk) for delta in deltas if delta.stream == stream)


def context(road: Road | None, cwd: Path = Path("/"), **config: Any) -> ToolContext:
    return ToolContext(THREAD, "t1", "c1", None, Config(**config), cwd, road)


def run(
    command: str,
    road: Road | None = None,
    tool: Tool[..., Any] = TOOL,
    cwd: Path = Path("/"),
    policy: str = "never",
    **more: Any,
) -> str:
    """What the model reads where the call succeeds."""

    async def main() -> str:
        arguments = json.dumps({"command": command, **more})
        text = await asyncio.wait_for(tool.call(arguments, context(road, cwd, approval_policy=policy)), WAIT_S)
        assert isinstance(text, str)
        return text

    return asyncio.run(main())


def failure(command: str, road: Road | None = None, **more: Any) -> str:
    """What the model reads where the call does not succeed."""
    with pytest.raises(ToolError) as caught:
        run(command, road, **more)
    return str(caught.value)


def output(text: str) -> str:
    return text.partition("\nOutput:\n")[2]


def is_gone(pid: int) -> bool:
    """Whether it is soon: a signal is not waited for. Dead orphans that nobody collects are gone too."""
    try:
        orphan = psutil.Process(pid)
        for _ in range(500):
            if orphan.status() == psutil.STATUS_ZOMBIE:
                return True
            threading.Event().wait(0.01)
    except psutil.NoSuchProcess:
        return True
    return False


# --- what the model is told, and tells -----------------------------------------------------------------------------


def test_schema_has_the_names_of_codex() -> None:
    parameters = spec(TOOL)["parameters"]
    assert TOOL.name == "shell_command"
    assert list(parameters["properties"]) == [
        "command",
        "workdir",
        "timeout_ms",
        "sandbox_permissions",
        "justification",
    ]
    assert parameters["required"] == ["command"]
    assert not TOOL.is_read_only


def test_report_has_code_time_and_output() -> None:
    lines = run("echo out; echo err >&2").split("\n")
    assert lines[0] == "Exit code: 0"
    assert lines[1].startswith("Wall time: ")
    assert lines[2:] == ["Output:", "out", "err", ""]


def test_other_exit_code_is_no_success() -> None:
    text = failure("echo no; exit 3")
    assert text.startswith("Exit code: 3\n")
    assert output(text) == "no\n"


def test_killing_signal_is_named() -> None:
    assert failure("kill -9 $$").split("\n")[0:3:2] == ["Exit code: 137", "Killed by: SIGKILL"]


def test_time_out_is_told_with_limit() -> None:
    text = failure("echo begun; sleep 60", timeout_ms=300)
    assert text.startswith("Exit code: 124\n")
    assert "\nTimed out: killed after 300 ms" in text
    assert output(text) == "begun\n"


def test_longer_limit_is_cut_to_the_hosts() -> None:
    assert "\nNote: timeout_ms is cut to 20000, the most\n" in run(
        "true", tool=shell_tool(max_timeout_s=20), timeout_ms=60_000
    )


def test_background_process_is_killed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_S", 0.1)
    text = run("sleep 60 & echo $!")
    assert "\nNote: what it left running in the background was killed\n" in text
    assert is_gone(int(output(text)))


def test_command_has_no_input_and_no_terminal() -> None:
    assert output(run("cat; test -t 1 || echo none")) == "none\n"


def test_workdir_is_relative_to_the_threads(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    assert output(run("pwd -P", cwd=tmp_path)) == f"{tmp_path.resolve()}\n"
    assert output(run("pwd -P", cwd=tmp_path, workdir="sub")) == f"{tmp_path.resolve()}/sub\n"
    assert output(run("pwd", cwd=tmp_path, workdir="/")) == "/\n"


def test_missing_folders_are_named(tmp_path: Path) -> None:
    assert failure("pwd", workdir="no/such") == "workdir 'no/such' is not an existing folder"
    assert failure("pwd", workdir="a\0b") == "workdir 'a\\x00b' is not an existing folder"
    assert failure("pwd", cwd=tmp_path / "gone").startswith(f"the thread's folder '{tmp_path / 'gone'}' does not exist")


def test_commands_that_cannot_be_one_are_refused() -> None:
    assert failure(" \n") == "command is empty"
    assert failure("a\0b") == "command holds a NUL character"
    assert failure("x" * 100_001).startswith("command has 100,001 bytes, more than 100,000")


def test_bash_of_a_relative_folder_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bash").write_text("#!/bin/sh\necho evil\n")
    (tmp_path / "bash").chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    assert output(run("echo good", cwd=tmp_path)) == "good\n"


def test_command_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bash").write_bytes(b"no program")
    (tmp_path / "bash").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failure("true") == "the command could not be started: Exec format error"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"environment": {}}, "environment is a dict"),
        ({"max_timeout_s": 0}, "max_timeout_s=0"),
        ({"output_bytes": 0}, "output_bytes=0"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        shell_tool(**wrong)
    assert named in str(caught.value)


def test_tool_pickles_with_its_settings() -> None:
    again = pickle.loads(pickle.dumps(shell_tool(environment=ShellEnvironment(inherit="none", set={"A": "1"}))))
    assert output(run("echo $A", tool=again)) == "1\n"


# --- output --------------------------------------------------------------------------------------------------------


def test_long_output_keeps_head_and_tail() -> None:
    text = run("seq 1000000", tool=shell_tool(output_bytes=100))
    assert "\nTotal output lines: 1000000\n" in text
    assert output(text).startswith("1\n2\n3\n")
    assert text.endswith("\n999999\n1000000\n")
    assert len(text) < 300


def test_binary_output_stays_below_the_bound() -> None:
    text = run("head -c 1000000 /dev/urandom")
    assert len(text.encode()) < shell.OUTPUT_BYTES + 300
    assert "\ufffd" in text


def test_character_written_in_parts_is_whole() -> None:
    assert output(run(r"printf '\303'; echo x >&2; sleep 0.1; printf '\244'")).endswith("ä")


def test_events_tell_begin_output_and_end() -> None:
    road = Road()
    text = run("echo out; echo err >&2", road)
    begin, *_, end = road.events
    assert isinstance(begin, ExecCommandBegin)
    assert isinstance(end, ExecCommandEnd)
    assert (begin.call_id, begin.turn_id, begin.cwd) == ("c1", "t1", "/")
    assert begin.command[1:] == ("-c", "echo out; echo err >&2")
    assert (road.written("stdout"), road.written("stderr")) == (b"out\n", b"err\n")
    assert (end.stdout, end.stderr, end.exit_code, end.formatted_output) == ("out\n", "err\n", 0, text)
    assert end.duration.keys() == {"secs", "nanos"}


def test_deltas_are_small_and_hold_every_byte() -> None:
    road = Road()
    run("head -c 300000 /dev/urandom | tee /dev/stderr | cksum >/dev/null", road)
    deltas = [event for event in road.events if isinstance(event, ExecCommandOutputDelta)]
    assert len(road.written("stderr")) == 300_000
    assert max(len(b64decode(delta.chunk)) for delta in deltas) <= shell.DELTA_BYTES


def test_deltas_end_at_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "DELTAS_BOUND", 3)
    road = Road()
    text = run("seq 1000000", road)
    assert sum(isinstance(event, ExecCommandOutputDelta) for event in road.events) == 3
    assert "\nTotal output lines: 1000000\n" in text


# --- environment ---------------------------------------------------------------------------------------------------


def test_secrets_of_the_host_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("MY_COPY", "hunter2hunter2")
    monkeypatch.setenv("MY_DB", "postgres://me:hunter2@db")
    monkeypatch.setenv("MY_EDITOR", "vi")
    text = run("env")
    assert "hunter2" not in text
    assert "MY_EDITOR=vi\n" in text


def test_host_chooses_another_environment() -> None:
    tool = shell_tool(environment=ShellEnvironment(inherit="none", set={"ONLY": "this"}))
    assert "ONLY=this" in output(run("/usr/bin/env", tool=tool))
    assert "HOME=" not in output(run("/usr/bin/env", tool=tool))


def test_functions_of_the_host_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASH_FUNC_ls%%", "() { echo evil; }")
    assert "evil" not in run("ls")


# --- approval ------------------------------------------------------------------------------------------------------


def test_untrusted_command_waits_for_approval(tmp_path: Path) -> None:
    road = Road("denied")
    assert failure("touch a", road, policy="untrusted", cwd=tmp_path) == "exec command rejected by user"
    assert not (tmp_path / "a").exists()
    assert road.events == []
    ((call_id, command, cwd, reason),) = road.requests
    assert (call_id, command[1:], cwd, reason) == ("c1", ("-c", "touch a"), str(tmp_path), None)
    run("touch a", Road("approved"), policy="untrusted", cwd=tmp_path)
    assert (tmp_path / "a").exists()


def test_harmless_command_needs_no_approval() -> None:
    assert output(run("echo a | cat", None, policy="untrusted")) == "a\n"


def test_git_elsewhere_needs_an_approval(tmp_path: Path) -> None:
    road = Road("denied")
    failure("git status", road, policy="untrusted", cwd=tmp_path, workdir="/")
    assert len(road.requests) == 1


def test_model_asks_with_its_reason() -> None:
    road = Road("approved_for_session")
    run("true", road, policy="on-request", sandbox_permissions="require_escalated", justification="to see")
    run("true", road, policy="on-request", justification="not asked for")
    assert [request[3] for request in road.requests] == ["to see"]


def test_dangerous_command_is_asked_on_request(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    road = Road("abort")
    failure("rm -f a", road, policy="on-request", cwd=tmp_path)
    assert len(road.requests) == 1
    run("rm -f a", road, policy="never", cwd=tmp_path)
    assert len(road.requests) == 1
    assert not (tmp_path / "a").exists()


# --- interrupts, and both kinds of hosts ---------------------------------------------------------------------------


def test_left_call_is_killed_behind_the_turn() -> None:
    async def main() -> bytes:
        workers, road = Workers(Pump(asyncio.get_running_loop(), Clock())), Road()
        box = Toolbox((TOOL,), workers, ManagerConfig())
        call = FunctionCall(name=TOOL.name, arguments='{"command": "echo $$; sleep 60; true"}', call_id="c1")
        turn = asyncio.create_task(box.run(call, context(road)))
        await road.has_output.wait()
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        await asyncio.wait(workers.tasks, timeout=WAIT_S)
        assert not workers.tasks
        workers.close()
        return road.written("stdout")

    assert is_gone(int(asyncio.run(main())))


def model_of(command: str) -> ScriptedModel:
    call = FunctionCall(name=TOOL.name, arguments=json.dumps({"command": command}), call_id="c1")
    return ScriptedModel([[call], "done", "alive"])


def fifo_in(folder: Path) -> Path:
    """A file whose reader waits for its writer."""
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def test_sync_host_runs_commands() -> None:
    with ThreadManager(model=model_of("echo hi")) as manager:
        thread = manager.start_thread(Config(tools=(TOOL,))).get().thread
        items = thread.run("go").get(timeout=WAIT_S).items
    (item,) = [item for item in items if isinstance(item, FunctionCallOutput)]
    assert output(str(item.output)) == "hi\n"


def test_interrupt_of_a_sync_host_kills(tmp_path: Path) -> None:
    fifo = fifo_in(tmp_path)
    with ThreadManager(model=model_of(f"echo $$ >{fifo}; sleep 60; true")) as manager:
        thread = manager.start_thread(Config(tools=(TOOL,))).get().thread
        reply = thread.run("go")
        pid = int(fifo.read_text())
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert reply.get(timeout=WAIT_S).status.word == "interrupted"
        assert manager.close().get(timeout=WAIT_S).abandoned_tools == 0
    assert is_gone(pid)


def test_close_kills_who_ignores_sigterm(tmp_path: Path) -> None:
    fifo = fifo_in(tmp_path)

    async def main() -> int:
        async with ThreadManager(model=model_of(f"trap '' TERM; echo $$ >{fifo}; sleep 60; sleep 60")) as manager:
            thread = (await manager.start_thread(Config(tools=(TOOL,)))).thread
            thread.run("go")
            pid = int(await asyncio.to_thread(fifo.read_text))
            assert (await manager.close()).abandoned_tools == 0
        return pid

    assert is_gone(asyncio.run(main()))
