from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ThreadManager, tool
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.model.responses import ResponsesModel
from codex_actors.protocol.events import AgentMessageDelta, StreamErrorEvent, TaskComplete
from codex_actors.testing import no_leaks
from codex_actors.tools.agents import agent_tools
from tests._kept_files import keep, line, meta_line
from tests.model._server import BEGIN, CALL, CUT, DELTA, OK, Answer, chunk, done, model_of, refusal, serving

WAIT_S = 20.0
KEY = "sk-test-0123456789abcdef"


@tool
async def look(at: str = "all") -> str:
    """Look."""
    return f"seen {at}"


CONFIG = Config(model="m", tools=(look,))


@pytest.fixture(scope="module")
def mock_url(shared_dir: Path) -> Iterator[str]:
    """A server that others wrote, in a process of its own."""
    command = [sys.executable, str(shared_dir / "codex" / "tools" / "mock_responses.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
        process.kill()


@pytest.fixture
def manager(mock_url: str, tmp_path: Path) -> Iterator[ThreadManager]:
    model = model_of(mock_url, request_max_retries=1, stream_max_retries=1)
    with no_leaks(), ThreadManager(tmp_path, model=model) as manager:
        yield manager


def test_thread_talks_to_a_foreign_server(manager: ThreadManager) -> None:
    thread = manager.start_thread(CONFIG).get().thread
    assert thread.run("Hello.").get(timeout=WAIT_S).text == "echo: Hello."
    result = thread.run("[[reason]][[tokens:70]]Again.").get(timeout=WAIT_S)
    assert (result.text, result.usage.input_tokens) == ("echo: Again.", 70)
    assert [item.type for item in result.items] == ["reasoning", "message"]


def test_calls_of_a_foreign_server_run(manager: ThreadManager) -> None:
    thread = manager.start_thread(CONFIG).get().thread
    asked = '[[call:look:{"at": "a"}]][[call:look:{"at": "b"}]][[say:both seen]]'
    result = thread.run(asked).get(timeout=WAIT_S)
    assert result.text == "both seen"
    assert [getattr(item, "output", None) for item in result.items] == [None, "seen a", None, "seen b", None]


def test_agents_of_a_foreign_server_work(manager: ThreadManager) -> None:
    thread = manager.start_thread(Config(model="m", tools=agent_tools())).get().thread
    result = thread.run("[[spawn:Count.]][[wait]][[close]][[say:done]]").get(timeout=WAIT_S)
    assert result.text == "done"
    outputs = [str(getattr(item, "output", "")) for item in result.items]
    assert any("echo: Count." in output for output in outputs)


def test_flood_of_deltas_comes_whole(manager: ThreadManager) -> None:
    thread = manager.start_thread(CONFIG).get().thread
    stream = thread.events()
    assert thread.run("[[deltas:2000]]").get(timeout=WAIT_S).text == "word " * 2000
    told = []
    for each in stream:
        if isinstance(each.msg, TaskComplete):
            break
        told.append(each.msg)
    assert sum(isinstance(msg, AgentMessageDelta) for msg in told) == 2000


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("[[fail:400]]", "the model's server refused the request: mock failure"),
        ("[[fail:401]]", "the model's server refused the credentials (status 401): mock failure"),
        ("[[fail:429]]", "exceeded retry limit, last status: 429"),
        ("[[fail:500]]", "the model's server has an internal error (mock failure); try again later"),
        ("[[incomplete]]", "stream disconnected before completion: stream closed before response.completed"),
    ],
)
def test_turn_fails_and_the_thread_goes_on(manager: ThreadManager, asked: str, error: str) -> None:
    thread = manager.start_thread(CONFIG).get().thread
    result = thread.run(asked).get(timeout=WAIT_S)
    assert (result.error, result.status.word) == (error, "errored")
    assert thread.run("Hello.").get(timeout=WAIT_S).text == "echo: Hello."


def test_slow_stream_can_be_interrupted(manager: ThreadManager) -> None:
    thread = manager.start_thread(CONFIG).get().thread
    stream = thread.events()
    running = thread.run("[[slow:600]]Hello.")
    assert any(isinstance(each.msg, AgentMessageDelta) for each in stream)
    thread.submit(Interrupt()).get(timeout=WAIT_S)
    assert running.get(timeout=WAIT_S).status.word == "interrupted"
    assert thread.run("Hello.").get(timeout=WAIT_S).text == "echo: Hello."


def test_many_threads_share_a_foreign_server(manager: ThreadManager) -> None:
    threads = [manager.start_thread(CONFIG).get().thread for _ in range(40)]
    for turn in range(2):
        running = [thread.run(f"{number}.{turn}") for number, thread in enumerate(threads)]
        texts = [reply.get(timeout=WAIT_S).text for reply in running]
        assert texts == [f"echo: {number}.{turn}" for number in range(40)]


def test_stream_that_breaks_behind_a_call_costs_no_call() -> None:
    async def main() -> None:
        answer: Answer = [BEGIN, chunk(done(CALL) + DELTA), CUT]
        async with serving(answer, OK) as server, ThreadManager(model=model_of(server.base_url)) as manager:
            thread = (await manager.start_thread(CONFIG)).thread
            result = await thread.run("Hello.")
        assert (result.text, result.error) == ("hi", None)
        sent = server.requests[-1].body["input"]
        assert [item["type"] for item in sent[-2:]] == ["function_call", "function_call_output"]
        assert sent[-1]["output"] == "seen all"

    asyncio.run(main())


def test_watchers_are_told_of_retries() -> None:
    async def main() -> list[str]:
        async with serving(refusal(429), OK) as server, ThreadManager(model=model_of(server.base_url)) as manager:
            thread = (await manager.start_thread(CONFIG)).thread
            stream = thread.events()
            await thread.run("Hello.")
            told: list[str] = []
            async for each in stream:
                if isinstance(each.msg, TaskComplete):
                    return told
                if isinstance(each.msg, StreamErrorEvent):
                    told.append(each.msg.message)
            raise AssertionError

    assert asyncio.run(main()) == ["Reconnecting... 1/5"]


def test_managers_on_one_loop_share_a_model() -> None:
    async def main() -> list[Any]:
        async with serving(OK) as server:
            model = model_of(server.base_url)
            async with ThreadManager(model=model) as first:
                async with ThreadManager(model=model) as second:
                    await (await second.start_thread(CONFIG)).thread.run("a")
                    thread = (await first.start_thread(CONFIG)).thread
                    texts = [(await thread.run("a")).text]
                return [*texts, (await thread.run("b")).text]

    assert asyncio.run(main()) == ["hi", "hi"]


def test_key_is_found_nowhere_after_a_run(
    mock_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", KEY)
    info = ModelProviderInfo(
        name="mock", base_url=mock_url, env_key="SOME_KEY", http_headers={"x-key": KEY}, query_params={"key": KEY}
    )
    model = ResponsesModel(info)
    seen: list[Any] = [info, model]
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.start_thread(CONFIG).get().thread
        stream = thread.events()
        seen += [
            thread.run(text).get(timeout=WAIT_S) for text in ("[[call:look:{}]]Hello.", "[[fail:401]]", "[[fail:400]]")
        ]
    seen += [*stream, caplog.text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in repr(seen)


def test_resumed_history_is_sent_word_for_word(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {
            "role": "user",
            "type": "message",
            "content": [{"text": "a", "new": None, "type": "input_text"}],
            "phase": None,
        },
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "ghost_snapshot", "ghost_commit": {"id": "x"}},
        {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c1", "new": {"b": 1, "a": None}},
        {"call_id": "c1", "type": "function_call_output", "output": [{"text": "b", "type": "input_text"}]},
        {"type": "hologram", "z": None, "a": [None]},
    ]
    path = keep(tmp_path, 1, meta_line(1) + "".join(line("response_item", **item) for item in items))

    async def main() -> list[Any]:
        async with serving(OK) as server, ThreadManager(tmp_path, model=model_of(server.base_url)) as manager:
            thread = (await manager.resume_thread_from_rollout(CONFIG, path)).thread
            await thread.run("Hello.")
        return list(server.requests[-1].body["input"])

    wanted = [json.dumps(item) for item in items if item["type"] != "ghost_snapshot"]
    assert [json.dumps(item) for item in asyncio.run(main())][: len(wanted)] == wanted
