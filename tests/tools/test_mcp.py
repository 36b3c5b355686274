from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ScriptedModel, ThreadId, ThreadManager
from codex_actors.errors import InvalidRequest, McpServerError, UnsupportedOperation
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.protocol.ops import ReviewDecision
from codex_actors.testing import no_leaks
from codex_actors.tools.mcp import McpServer, McpTool
from codex_actors.tools.tool import ToolArgumentsError, ToolContext, ToolError

pytest.importorskip("mcp")

PROGRAM = str(Path(__file__).with_name("_mcp_server.py"))
START_S = 60.0
WAIT_S = 60.0


def server_of(**settings: Any) -> McpServer:
    return McpServer(sys.executable, [PROGRAM], name="test", start_timeout_s=START_S, **settings)


def running(code: str, **settings: Any) -> McpServer:
    """A program that is no good server."""
    return McpServer(sys.executable, ["-c", code], name="bad", **{"start_timeout_s": START_S, **settings})


def tool_of(server: McpServer, name: str) -> McpTool:
    return next(each for each in server.tools if each.name == f"mcp__test__{name}")


async def called(server: McpServer, name: str, **arguments: Any) -> str:
    return await asyncio.wait_for(tool_of(server, name).call(json.dumps(arguments), None), WAIT_S)


def call(server: McpServer, name: str, **arguments: Any) -> str:
    return asyncio.run(called(server, name, **arguments))


def until(is_true: Callable[[], bool]) -> None:
    for _ in range(int(WAIT_S * 100)):
        if is_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        ran = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=WAIT_S)
        return not ran.stdout.startswith("Z") and bool(ran.stdout)
    return False


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    with no_leaks(), server_of() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[McpServer]:
    with no_leaks(), server_of(env={"TOKEN": "sekret-123"}) as server:
        yield server


# --- the tools ---------------------------------------------------------------------------------------------------------


def test_tools_of_all_pages_are_listed(server: McpServer) -> None:
    made = Config(tools=server.tools).tools
    assert [each.name for each in made[:13]] == [
        f"mcp__test__{name}"
        for name in (
            *("echo", "structured", "wrong", "unstructured", "mixed", "refuses", "raises", "slow", "crash", "big"),
            *("noise", "about", "child"),
        )
    ]
    assert len({each.name for each in made}) == 17
    assert (made[0].description, made[1].description, made[2].description) == ("Say it again.", "A city", "")
    assert made[0].parameters["properties"]["text"] == {"type": "string", "maxLength": 1000}
    assert [each.is_read_only for each in made] == [True] + [False] * 16
    assert made[0].is_async


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("echo", {"text": "zwölf €\n\u2028\U0001f600"}, "zwölf €\n\u2028\U0001f600"),
        ("structured", {}, '{"name":"Zürich"}'),
        ("dotted_name__", {}, "dotted.name/ü"),
        ("big", {"chars": 1_000_000}, "€" * 1_000_000),
        ("noise", {}, "noise"),
    ],
)
def test_result_is_what_the_model_reads(name: str, arguments: Any, text: str, server: McpServer) -> None:
    assert call(server, name, **arguments) == text


def test_what_is_no_text_is_named(server: McpServer) -> None:
    assert call(server, "mixed").splitlines() == [
        *("first", "[image/png, 5 bytes]", "[audio/wav, 5 bytes]", "of a file"),
        *("[file:///b.bin, x/y, 5 bytes]", "[link: file:///c.txt, c]", "last"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refuses", "^that city is closed$"),
        ("raises", "^the MCP server 'test' refused the call: no such city$"),
        ("wrong", r"cannot be used: does not fit the output schema that the server declares: \$\.name: 7 is not"),
        ("unstructured", "cannot be used: .* output schema but did not return structured content"),
    ],
)
def test_failure_of_a_call_is_said(name: str, text: str, server: McpServer) -> None:
    with pytest.raises(ToolError, match=text):
        call(server, name)


def test_arguments_that_are_no_object_are_refused(server: McpServer) -> None:
    with pytest.raises(ToolArgumentsError, match=r"mcp__test__echo: .* is not a JSON object"):
        asyncio.run(tool_of(server, "echo").call("[1]", None))


def test_calls_run_beside_each_other(server: McpServer) -> None:
    async def many() -> list[str]:
        return await asyncio.gather(*(called(server, "echo", text=str(n)) for n in range(50)))

    assert asyncio.run(many()) == [str(n) for n in range(50)]


def test_server_and_tools_do_not_pickle(server: McpServer) -> None:
    for made in (server, server.tools[0]):
        with pytest.raises(TypeError, match="<McpServer test> is a child of this process"):
            pickle.dumps(made)


# --- in turns ----------------------------------------------------------------------------------------------------------


def scripted(*calls: tuple[str, Any]) -> ScriptedModel:
    asked = [FunctionCall(name=f"mcp__test__{n}", arguments=json.dumps(a), call_id=f"c{n}") for n, a in calls]
    return ScriptedModel([asked, "done"], keep_prompts=True)


def outputs(model: ScriptedModel) -> list[Any]:
    return [item.output for item in model.prompts[1].input if isinstance(item, FunctionCallOutput)]


def test_model_calls_tools_in_sync_mode(server: McpServer) -> None:
    model = scripted(("echo", {"text": "hello"}), ("refuses", {}))
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=server.tools)).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
    assert outputs(model) == ["hello", "that city is closed"]
    assert model.prompts[0].tools[0]["parameters"]["required"] == ["text"]


def test_model_calls_tools_in_async_mode() -> None:
    model = scripted(("echo", {"text": "hello"}), ("big", {"chars": 100_000}))

    async def main() -> None:
        async with server_of() as server, ThreadManager(model=model) as manager:
            thread = (await manager.start_thread(Config(tools=server.tools))).thread
            assert (await thread.run("hi")).text == "done"

    with no_leaks():
        asyncio.run(main())
    assert outputs(model)[0] == "hello"
    assert " bytes, 0 lines left out]…" in outputs(model)[1]


def test_interrupt_cancels_the_request(server: McpServer, tmp_path: Path) -> None:
    with ThreadManager(model=scripted(("slow", {"marks": str(tmp_path)}))) as manager:
        thread = manager.start_thread(Config(tools=server.tools)).get().thread
        reply = thread.run("hi")
        until((tmp_path / "begun").exists)
        reply.cancel()
        assert reply.get(timeout=WAIT_S).status.word == "interrupted"
        until((tmp_path / "cancelled").exists)
    assert call(server, "echo", text="alive") == "alive"


def test_call_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    model = scripted(("slow", {"marks": str(tmp_path)}))
    with server_of(timeout_s=1) as server, ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=server.tools)).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
        until((tmp_path / "cancelled").exists)
    assert outputs(model) == ["tool mcp__test__slow did not finish within 1 s"]


# --- approval ----------------------------------------------------------------------------------------------------------


class Watcher:
    """Somebody who watches the thread, and gives the same answer to each request for approval."""

    def __init__(self, answer: ReviewDecision, policy: Any = "untrusted") -> None:
        self.answer = answer
        self.asked: list[tuple[str, ...]] = []
        thread_id = ThreadId("0193b5b8-0000-7000-8000-000000000001")
        self.context = ToolContext(thread_id, "1", "c1", None, Config(approval_policy=policy), road=self)

    async def emit(self, msg: EventMsg) -> None:
        raise AssertionError(msg)

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        self.asked.append(command)
        return self.answer


def test_untrusted_call_asks_with_its_arguments(server: McpServer) -> None:
    watcher = Watcher("approved")
    assert asyncio.run(tool_of(server, "big").call('{"chars": 1}', watcher.context)) == "€"
    assert watcher.asked == [("mcp__test__big", '{"chars": 1}')]


def test_call_that_is_not_approved_is_not_made(server: McpServer, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="the call of mcp__test__slow rejected by user"):
        asyncio.run(tool_of(server, "slow").call(f'{{"marks": "{tmp_path}"}}', Watcher("denied").context))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "policy"), [("echo", "untrusted"), ("big", "on-request"), ("big", "never")])
def test_reading_and_other_policies_ask_nobody(name: str, policy: str, server: McpServer) -> None:
    watcher = Watcher("denied", policy)
    asyncio.run(tool_of(server, name).call('{"text": "a", "chars": 1}', watcher.context))
    assert watcher.asked == []


# --- a server that dies ------------------------------------------------------------------------------------------------


def test_dead_server_is_said_and_restarted_once(own_server: McpServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ToolError) as first:
        call(own_server, "crash")
    assert str(first.value) == (
        "the MCP server 'test' exited with code 7; this call has no result; the next call starts it again; "
        "it said last:\nthe last words of ***"
    )
    assert call(own_server, "echo", text="back") == "back"
    with pytest.raises(ToolError, match="exited with code 9; this call has no result; it stays stopped: go on without"):
        call(own_server, "crash", code=9)
    for _ in range(2):
        with pytest.raises(ToolError, match="exited with code 9; it was started again before, and stays stopped"):
            call(own_server, "echo", text="back")
    assert "the last words of ***" in caplog.text
    assert "sekret-123" not in caplog.text


def test_all_calls_under_a_death_are_told(own_server: McpServer, tmp_path: Path) -> None:
    async def many() -> list[Any]:
        slow = asyncio.ensure_future(called(own_server, "slow", marks=str(tmp_path)))
        while not (tmp_path / "begun").exists():
            await called(own_server, "echo", text="")
        crashed = await asyncio.gather(slow, called(own_server, "crash"), return_exceptions=True)
        return [*crashed, *await asyncio.gather(*(called(own_server, "echo", text=str(n)) for n in range(3)))]

    slow, crash, *after = asyncio.run(many())
    assert isinstance(slow, ToolError)
    assert str(slow) == str(crash)
    assert after == ["0", "1", "2"]


def test_server_killed_between_calls_is_not_missed(own_server: McpServer) -> None:
    child = own_server._host._lives[-1]._child
    assert child is not None
    os.kill(child.get_pid(), signal.SIGKILL)
    until(lambda: child.get_returncode() is not None)
    assert call(own_server, "echo", text="back") == "back"
    assert own_server._host._restarts_left == 0


def test_noise_leaves_the_last_lines_only(own_server: McpServer) -> None:
    call(own_server, "noise")
    with pytest.raises(ToolError) as caught:
        call(own_server, "crash")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-2:] == ["at last", "the last words of ***"]


# --- start and close ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"command": ""}, "command: '' is not the name"),
        ({"command": "a\0b"}, "command: holds a null"),
        ({"args": "text"}, "args: not a sequence of texts"),
        ({"args": [7]}, "args: not a sequence of texts"),
        ({"env": {"A": 7}}, "env: 'A' or its value is not text"),
        ({"env": {"A": "\0"}}, "env: holds a null"),
        ({"name": "a b"}, "name: 'a b' is not 1 to 32 of"),
        ({"cwd": "."}, "cwd: '.' is not the pathlib.Path of an existing folder"),
        ({"cwd": Path("/missing")}, "cwd: .*/missing.* is not the pathlib.Path of an existing folder"),
        ({"start_timeout_s": 0}, "start_timeout_s: 0 is not a number of seconds"),
        ({"timeout_s": -1}, "timeout_s: -1 is not a number of seconds"),
        ({"timeout_s": 0}, "timeout_s: 0 is not a number of seconds"),
    ],
)
def test_wrong_settings_are_named(settings: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        McpServer(**{"command": "true", "name": "test", **settings})


SILENT = "import sys; sys.stdin.read()"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
LOUD = "import sys; print('no key', file=sys.stderr); sys.exit(3)"
NOT_MCP = (
    "import json, sys; id = json.loads(input())['id']\n"
    "print(json.dumps({'jsonrpc': '2.0', 'id': id, 'result': {}}), flush=True); sys.stdin.read()"
)
REFUSES = (
    "import json; id = json.loads(input())['id']; input_ = {'code': -32001, 'message': 'no licence'}\n"
    "print(json.dumps({'jsonrpc': '2.0', 'id': id, 'error': input_}), flush=True); input()"
)


@pytest.mark.parametrize(
    ("code", "settings", "text"),
    [
        (LOUD, {}, "the MCP server 'bad' exited with code 3; it said last:\nno key$"),
        ("import os; os.kill(os.getpid(), 9)", {}, "'bad' was killed by SIGKILL$"),
        ("import os, time; os.close(1); time.sleep(600)", {}, "'bad' closed its output$"),
        (SILENT, {"start_timeout_s": 0.5}, r"'bad' did not tell its tools within 0\.5 s$"),
        (STUBBORN, {"start_timeout_s": 0.5}, r"'bad' did not tell its tools within 0\.5 s$"),
        (NOT_MCP, {}, "'bad' does not speak MCP as it should: "),
        (REFUSES, {}, "'bad' refused to start: no licence$"),
    ],
)
def test_server_that_does_not_start_says_why(code: str, settings: Any, text: str) -> None:
    server = running(code, **settings)
    with no_leaks():
        with pytest.raises(McpServerError, match=text) as caught:
            server.start()
        assert caught.value.server == "bad"
    with pytest.raises(UnsupportedOperation, match="has no tools before it is started"):
        _ = server.tools


def test_program_that_is_not_there_is_named() -> None:
    with no_leaks(), pytest.raises(McpServerError, match="could not be started: '/no/such': No such file"):
        McpServer("/no/such", ["--key=sekret"], name="bad").start()


def test_environment_and_folder_are_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sekret")
    with server_of(cwd=tmp_path.resolve(), env={"TOKEN": "x"}) as server:
        about = call(server, "about")
    assert about.startswith(f"{tmp_path.resolve()} [")
    assert "'TOKEN'" in about
    assert "OPENAI_API_KEY" not in about


def test_close_ends_all_that_the_server_started() -> None:
    with no_leaks():
        with server_of() as server:
            pid = int(call(server, "child"))
            assert is_alive(pid)
        until(lambda: not is_alive(pid))


def test_close_ends_calls_in_words(tmp_path: Path) -> None:
    async def main() -> str:
        async with server_of() as server:
            slow = asyncio.ensure_future(called(server, "slow", marks=str(tmp_path)))
            while not (tmp_path / "begun").exists():
                await called(server, "echo", text="")
        with pytest.raises(ToolError, match="'test' is closed; its tools cannot be used any more"):
            await called(server, "echo", text="")
        with pytest.raises(ToolError) as caught:
            await slow
        return str(caught.value)

    with no_leaks():
        assert asyncio.run(main()) == "the MCP server 'test' is closed; its tools cannot be used any more"


def test_server_starts_once_and_closes_often() -> None:
    server = running("import sys; sys.exit(0)")
    with pytest.raises(McpServerError):
        server.start()
    server.close()
    server.close()
    with pytest.raises(UnsupportedOperation, match="'bad' was started already; make another McpServer"):
        server.start()


def test_waiter_that_gives_up_leaves_no_server() -> None:
    async def main() -> None:
        async with asyncio.timeout(0.2):
            async with running(SILENT):
                pass

    with no_leaks(), pytest.raises(TimeoutError):
        asyncio.run(main())


def test_forgotten_server_ends_in_the_background() -> None:
    with no_leaks():
        server = server_of().start()
        tools = server.tools
        del server
        assert asyncio.run(tools[0].call('{"text": "held"}', None)) == "held"
        del tools
        gc.collect()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_cannot_use_the_server(server: McpServer) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            server.close()
        except UnsupportedOperation:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert call(server, "echo", text="alive") == "alive"


FORGETFUL = f"""
import asyncio, sys
from codex_actors.tools.mcp import McpServer
server = McpServer(sys.executable, [{PROGRAM!r}], name="test", start_timeout_s=60).start()
tool = next(each for each in server.tools if each.name == "mcp__test__child")
print(server._host._lives[-1]._child.get_pid(), asyncio.run(tool.call("", None)))
"""


def test_exit_without_a_close_leaves_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", FORGETFUL], capture_output=True, text=True, timeout=WAIT_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    for pid in map(int, ran.stdout.split()):
        until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
