from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors import CodexThread, Config, EventStream, ExecApproval, Interrupt, ScriptedModel, ThreadManager
from codex_actors.protocol.events import (
    ExecApprovalRequest,
    ExecCommandBegin,
    ExecCommandEnd,
    ExecCommandOutputDelta,
    TaskComplete,
    TurnAborted,
)
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.testing import no_leaks
from codex_actors.tools.shell import shell_tool
from codex_actors.tools.tool import Tool, ToolContext

WAIT_S = 20.0
ENDS = (TaskComplete, TurnAborted)


def call(command: str, call_id: str = "c1", **arguments: Any) -> FunctionCall:
    text = json.dumps({"command": command, **arguments})
    return FunctionCall(name="shell_command", arguments=text, call_id=call_id)


def turn_of(stream: EventStream) -> list[Any]:
    found: list[Any] = []
    while not found or not isinstance(found[-1], ENDS):
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        found.append(event.msg)
    return found


def of_kind(stream: EventStream, kind: type) -> Any:
    while (event := stream.next_blocking(WAIT_S)) is not None:
        if isinstance(event.msg, kind):
            return event.msg
    raise AssertionError("the thread has ended")


def outputs(result: Any) -> list[str]:
    return [str(item.output) for item in result.items if isinstance(item, FunctionCallOutput)]


def start(manager: ThreadManager, cwd: Path, **config: Any) -> tuple[CodexThread, EventStream]:
    thread = manager.start_thread(Config(cwd=cwd, tools=(shell_tool(),), **config)).get().thread
    return thread, thread.events()


def test_command_of_a_model_is_run_and_shown(tmp_path: Path) -> None:
    with no_leaks(), ThreadManager.for_testing(ScriptedModel([[call("echo hi; pwd")], "done"])) as manager:
        thread, stream = start(manager, tmp_path)
        result = thread.run("go").get(timeout=WAIT_S)
        told = [msg for msg in turn_of(stream) if msg.type.startswith("exec_")]
    assert [type(msg) for msg in told[:1] + told[-1:]] == [ExecCommandBegin, ExecCommandEnd]
    assert any(isinstance(msg, ExecCommandOutputDelta) for msg in told)
    assert (told[-1].exit_code, told[-1].stdout) == (0, f"hi\n{tmp_path}\n")
    assert f"hi\n{tmp_path}" in outputs(result)[0]


def test_command_runs_on_the_hosts_own_loop_too(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with ThreadManager.for_testing(ScriptedModel([[call("echo hi")], "done"])) as manager:
            thread = (await manager.start_thread(Config(cwd=tmp_path, tools=(shell_tool(),)))).thread
            return outputs(await thread.run("go"))

    assert "hi" in asyncio.run(main())[0]


@pytest.mark.parametrize(("decision", "is_there"), [("approved", False), ("denied", True), ("abort", True)])
def test_untrusted_command_waits_for_its_approval(tmp_path: Path, decision: Any, is_there: bool) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    with ThreadManager.for_testing(ScriptedModel([[call("rm victim")], "done"])) as manager:
        thread, stream = start(manager, tmp_path, approval_policy="untrusted")
        running = thread.run("go")
        request = of_kind(stream, ExecApprovalRequest)
        assert victim.exists()
        assert request.command[-1] == "rm victim"
        thread.submit(ExecApproval(id=request.approval_id, decision=decision)).get(timeout=WAIT_S)
        running.get(timeout=WAIT_S)
    assert victim.exists() == is_there


def test_command_known_to_be_harmless_is_not_asked_about(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel([[call("ls")], "done"])) as manager:
        thread, stream = start(manager, tmp_path, approval_policy="untrusted")
        thread.run("go").get(timeout=WAIT_S)
        assert [msg for msg in turn_of(stream) if isinstance(msg, ExecApprovalRequest)] == []


def test_model_may_ask_for_an_approval(tmp_path: Path) -> None:
    asking = call("echo hi", sandbox_permissions="require_escalated", justification="to greet")
    with ThreadManager.for_testing(ScriptedModel([[asking], "done", [asking], "done"])) as manager:
        thread, stream = start(manager, tmp_path, approval_policy="on-request")
        running = thread.run("go")
        request = of_kind(stream, ExecApprovalRequest)
        assert request.reason == "to greet"
        op = ExecApproval(id=request.approval_id, decision="approved_for_session")
        thread.submit(op).get(timeout=WAIT_S)
        assert "hi" in outputs(running.get(timeout=WAIT_S))[0]
        assert "hi" in outputs(thread.run("again").get(timeout=WAIT_S))[0]


def test_interrupt_ends_the_command_with_its_children(tmp_path: Path) -> None:
    command = "sleep 600 & echo $! > pid; wait"
    with no_leaks(), ThreadManager.for_testing(ScriptedModel([[call(command, timeout_ms=600_000)]])) as manager:
        thread, stream = start(manager, tmp_path)
        running = thread.run("go")
        of_kind(stream, ExecCommandBegin)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert outputs(running.get(timeout=WAIT_S)) == ["aborted by user"]
        end = of_kind(stream, ExecCommandEnd)
    assert end.exit_code == -1
    pid = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    assert not pid.strip() or not Path(f"/proc/{pid.strip()}/status").exists() or "Z" in state_of(pid.strip())


def state_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_command_left_behind_by_its_tool_is_ended_for_watchers(tmp_path: Path) -> None:
    async def begin_and_leave(context: ToolContext) -> str:
        begin = ExecCommandBegin(call_id=context.call_id, turn_id=context.turn_id, command=("x",), cwd="/")
        await context.emit(begin)
        return "left"

    left = FunctionCall(name="begin_and_leave", arguments="{}", call_id="c1")
    with ThreadManager.for_testing(ScriptedModel([[left], "done"])) as manager:
        thread = manager.start_thread(Config(tools=(Tool(begin_and_leave),))).get().thread
        stream = thread.events()
        thread.run("go").get(timeout=WAIT_S)
        ends = [msg for msg in turn_of(stream) if isinstance(msg, ExecCommandEnd)]
    assert [(end.call_id, end.exit_code) for end in ends] == [("c1", -1)]
