from __future__ import annotations

import asyncio
from typing import Any

import pytest

from codex_actors import (
    AgentStatus,
    CodexThread,
    Config,
    EventStream,
    Interrupt,
    ManagerConfig,
    ScriptedModel,
    ThreadManager,
    tool,
)
from codex_actors.errors import InternalAgentDied
from codex_actors.protocol.events import ExecApprovalRequest, ExecCommandBegin, ExecCommandEnd, Warning
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.protocol.ops import ExecApproval
from codex_actors.tools.tool import ToolContext

WAIT_S = 10.0


@tool(read_only=True)
async def ask(context: ToolContext, command: str) -> str:
    return f"{command}: {await context.ask_approval([command], reason='because')}"


@tool
async def begin_and_wait(context: ToolContext) -> str:
    await context.emit(ExecCommandBegin(call_id="c0", turn_id=context.turn_id, command=("sleep",), cwd="/"))
    return await context.ask_approval(["never answered"])


def calls(*commands: str) -> list[FunctionCall]:
    return [
        FunctionCall(name="ask", arguments=f'{{"command": "{command}"}}', call_id=f"c{index}")
        for index, command in enumerate(commands)
    ]


def until(stream: EventStream, kind: type, count: int = 1) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        if isinstance(event.msg, kind):
            found.append(event.msg)
    return found


def answer(thread: CodexThread, request: ExecApprovalRequest, decision: str) -> None:
    op = ExecApproval(id=request.approval_id, decision=decision)  # type: ignore[arg-type]
    thread.submit(op).get(timeout=WAIT_S)


def outputs(result: Any) -> list[str]:
    return [str(item.output) for item in result.items if isinstance(item, FunctionCallOutput)]


@pytest.fixture
def asked() -> Any:
    """A thread whose model asks with these commands, its running turn, its events."""
    managers: list[ThreadManager] = []

    def start(*commands: str, **config: Any) -> tuple[CodexThread, Any, EventStream]:
        model = ScriptedModel([calls(*commands), "done", calls(*commands), "done"])
        manager = ThreadManager(model=model, config=ManagerConfig(**config))
        managers.append(manager)
        manager.__enter__()
        thread = manager.start_thread(Config(tools=(ask,))).get().thread
        stream = thread.events()
        return thread, thread.run("go"), stream

    yield start
    for manager in managers:
        manager.__exit__(None, None, None)


@pytest.mark.parametrize("decision", ["approved", "approved_for_session", "denied"])
def test_answer_reaches_the_call_that_asked(asked: Any, decision: str) -> None:
    thread, running, stream = asked("rm x")
    (request,) = until(stream, ExecApprovalRequest)
    assert (request.command, request.reason, request.call_id) == (("rm x",), "because", "c0")
    answer(thread, request, decision)
    assert outputs(running.get(timeout=WAIT_S)) == [f"rm x: {decision}"]


def test_parallel_requests_never_mix(asked: Any) -> None:
    thread, running, stream = asked("a", "b", "c")
    requests = {request.command[0]: request for request in until(stream, ExecApprovalRequest, 3)}
    assert len({request.approval_id for request in requests.values()}) == 3
    answer(thread, requests["c"], "denied")
    answer(thread, requests["a"], "approved")
    answer(thread, requests["b"], "denied")
    assert outputs(running.get(timeout=WAIT_S)) == ["a: approved", "b: denied", "c: denied"]


def test_command_approved_for_session_asks_once(asked: Any) -> None:
    thread, running, stream = asked("make")
    answer(thread, until(stream, ExecApprovalRequest)[0], "approved_for_session")
    running.get(timeout=WAIT_S)
    assert outputs(thread.run("again").get(timeout=WAIT_S)) == ["make: approved"]


def test_request_without_an_answer_is_denied(asked: Any) -> None:
    _, running, stream = asked("rm x", approval_timeout_s=0.01)
    assert "not answered within 0.01 s" in until(stream, Warning)[0].message
    assert outputs(running.get(timeout=WAIT_S)) == ["rm x: denied"]


def test_wait_for_an_answer_does_not_spend_the_tools_time(asked: Any) -> None:
    _, running, _ = asked("rm x", tool_timeout_s=0.05, approval_timeout_s=0.2)
    assert outputs(running.get(timeout=WAIT_S)) == ["rm x: denied"]


def test_abort_denies_and_interrupts_the_turn(asked: Any) -> None:
    thread, running, stream = asked("rm x")
    answer(thread, until(stream, ExecApprovalRequest)[0], "abort")
    result = running.get(timeout=WAIT_S)
    assert result.status == AgentStatus.INTERRUPTED
    assert outputs(result) == ["aborted by user"]
    assert outputs(thread.run("next").get(timeout=WAIT_S)) == []


def test_answer_to_no_open_request_is_named(asked: Any) -> None:
    thread, running, stream = asked("rm x")
    (request,) = until(stream, ExecApprovalRequest)
    answer(thread, request, "approved")
    running.get(timeout=WAIT_S)
    answer(thread, request, "denied")
    assert repr(request.approval_id) in until(stream, Warning)[0].message


def test_interrupt_takes_its_requests_along() -> None:
    model = ScriptedModel([[FunctionCall(name="begin_and_wait", arguments="{}", call_id="c0")], "done"])
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(begin_and_wait,))).get().thread
        stream = thread.events()
        running = thread.run("go")
        (request,) = until(stream, ExecApprovalRequest)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert outputs(running.get(timeout=WAIT_S)) == ["aborted by user"]
        (end,) = until(stream, ExecCommandEnd)
        answer(thread, request, "approved")
        until(stream, Warning)
        assert thread.run("next").get(timeout=WAIT_S).text == "done"
    assert (end.call_id, end.exit_code) == ("c0", -1)


def test_tool_in_an_os_thread_is_told_that_it_cannot_ask() -> None:
    @tool
    def ask_in_os_thread(context: ToolContext) -> str:
        return asyncio.run(context.ask_approval(["rm x"]))

    call = FunctionCall(name="ask_in_os_thread", arguments="{}", call_id="c0")
    with ThreadManager.for_testing(ScriptedModel([[call], "done"])) as manager:
        thread = manager.start_thread(Config(tools=(ask_in_os_thread,))).get().thread
        (output,) = outputs(thread.run("go").get(timeout=WAIT_S))
    assert "make the tool an `async def`" in output


def test_answer_to_a_request_that_its_call_left_is_named() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    @tool
    async def ask_and_leave(context: ToolContext) -> None:
        asking = asyncio.create_task(context.ask_approval(["rm x"]))
        await asked.wait()
        asking.cancel()
        await left.wait()

    async def main() -> None:
        call = FunctionCall(name="ask_and_leave", arguments="{}", call_id="c0")
        async with ThreadManager(model=ScriptedModel([[call], "done"])) as manager, asyncio.timeout(WAIT_S):
            thread = (await manager.start_thread(Config(tools=(ask_and_leave,)))).thread
            running, messages = thread.run("go"), (event.msg async for event in thread.events())
            request = await anext(msg async for msg in messages if isinstance(msg, ExecApprovalRequest))
            asked.set()
            await asyncio.sleep(0)
            await thread.submit(ExecApproval(id=request.approval_id, decision="abort"))
            left.set()
            assert (await running).text == "done"

    asyncio.run(main())


def test_request_that_nobody_saw_ends_with_its_turn() -> None:
    asking: list[asyncio.Task[str]] = []

    @tool
    async def ask_too_late(context: ToolContext) -> None:
        asking.append(asyncio.create_task(context.ask_approval(["rm x"])))
        await asyncio.sleep(0)
        threads[0]._actor.actor_ref.tell("a foreign message")  # in front of the request: it ends the thread
        await asyncio.Event().wait()

    async def main() -> None:
        call = FunctionCall(name="ask_too_late", arguments="{}", call_id="c0")
        async with ThreadManager(model=ScriptedModel([[call]])) as manager, asyncio.timeout(WAIT_S):
            threads.append((await manager.start_thread(Config(tools=(ask_too_late,)))).thread)
            with pytest.raises(InternalAgentDied):
                await threads[0].run("go")
            await asyncio.wait(asking)
        assert asking[0].cancelled()

    threads: list[CodexThread] = []
    asyncio.run(main())


def test_tool_that_outlasts_its_turn_is_denied() -> None:
    contexts: list[ToolContext] = []

    @tool
    async def leave_its_context(context: ToolContext) -> None:
        contexts.append(context)

    async def main() -> str:
        call = FunctionCall(name="leave_its_context", arguments="{}", call_id="c0")
        async with ThreadManager(model=ScriptedModel([[call], "done"])) as manager, asyncio.timeout(WAIT_S):
            thread = (await manager.start_thread(Config(tools=(leave_its_context,)))).thread
            await thread.run("go")
            return await contexts[0].ask_approval(["rm x"])

    assert asyncio.run(main()) == "denied"
