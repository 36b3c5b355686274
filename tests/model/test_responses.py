from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError

from codex_actors.errors import CodexError, UnexpectedStatus, UnsupportedOperation
from codex_actors.model.provider import (
    Completed,
    ItemAdded,
    ItemDone,
    ModelProvider,
    TextDelta,
    provider_name,
    provider_presets,
)
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.model.responses import ResponsesModel
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.items import InputText, Message, OutputText
from codex_actors.testing import no_leaks
from codex_actors.version import __version__
from tests.model._server import (
    BEGIN,
    BODY,
    COMPLETED,
    DELTA,
    END,
    HANG,
    OK,
    PROMPT,
    Answer,
    ask,
    chunk,
    done,
    event,
    events_of,
    full,
    model_of,
    serving,
)

EVENTS = [
    ItemAdded(Message(id="msg_1", role="assistant")),
    TextDelta("hi"),
    ItemDone(Message(id="msg_1", role="assistant", content=(OutputText(text="hi"),))),
    Completed(TokenUsage(input_tokens=7, output_tokens=2, total_tokens=9), "resp_1"),
]


@pytest.fixture(autouse=True)
def _leaves_nothing_open() -> Any:
    with no_leaks():
        yield


def test_answer_comes_as_model_events() -> None:
    assert ask(OK)[0] == EVENTS


def test_request_is_what_codex_sends() -> None:
    (request,) = ask(OK, prompt=replace(PROMPT, instructions="Be brief.", subagent="collab_spawn"))[1].requests
    assert request.line == "POST /v1/responses HTTP/1.1"
    assert request.body == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "store": False,
        "stream": True,
        "prompt_cache_key": str(PROMPT.thread_id),
    }
    wanted = {
        "accept": "text/event-stream",
        "content-type": "application/json",
        "conversation_id": str(PROMPT.thread_id),
        "session_id": str(PROMPT.thread_id),
        "x-openai-subagent": "collab_spawn",
        "originator": "codex_actors",
        "user-agent": f"codex_actors/{__version__}",
    }
    assert {name: request.headers.get(name) for name in wanted} == wanted
    assert "authorization" not in request.headers


def test_settings_go_to_every_request() -> None:
    settings: dict[str, Any] = {
        "query_params": {"api-version": "2025 &"},
        "http_headers": {"x-team": "ours"},
        "experimental_bearer_token": "some-token",
    }
    (request,) = ask(OK, **settings)[1].requests
    assert request.line == "POST /v1/responses?api-version=2025+%26 HTTP/1.1"
    assert (request.headers["x-team"], request.headers["authorization"]) == ("ours", "Bearer some-token")


@pytest.mark.parametrize(
    "answer",
    [
        [full(BODY)],
        [BEGIN, chunk(BODY), END],
        [BEGIN, *(chunk(BODY[at : at + 1]) for at in range(len(BODY))), END],
        [BEGIN + chunk(BODY) + END],
        [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + BODY],
        [full(BODY.replace(b"\n", b"\r\n"))],
        [full(b"\xef\xbb\xbf: hello\n\n" + BODY)],
        [full(b"data: [DONE]\n\ndata: {\ndata: \xff\n\ndata: []\n\ndata: {}\n\n" + event("response.new") + BODY)],
        [full(BODY + done() + COMPLETED)],
    ],
)
def test_form_of_the_stream_does_not_matter(answer: Answer) -> None:
    assert ask(answer)[0] == EVENTS


def test_line_of_ten_megabytes_comes_whole() -> None:
    text = "word " * 2_000_000
    body = event("response.output_text.delta", delta=text) + COMPLETED
    pieces = [chunk(body[at : at + 65536]) for at in range(0, len(body), 65536)]
    assert ask([BEGIN, *pieces, END])[0] == [TextDelta(text), EVENTS[-1]]


def test_bytes_that_are_no_text_are_replaced() -> None:
    body = DELTA.replace(b"hi", b"h\xff") + COMPLETED
    assert ask(full(body))[0][0] == TextDelta("h\ufffd")


def test_big_history_is_sent_whole() -> None:
    item = Message(role="user", content=(InputText(text="é" * 1_500_000),))
    (request,) = ask(OK, prompt=replace(PROMPT, input=(item, *PROMPT.input)))[1].requests
    assert request.body["input"][0]["content"][0]["text"] == "é" * 1_500_000
    assert len(request.body["input"]) == 2


def test_completed_does_not_wait_for_the_close() -> None:
    events, server = ask([BEGIN, chunk(BODY), HANG])
    assert (events, server.connections) == (EVENTS, 1)


@pytest.mark.parametrize("answer", [[OK], [BEGIN, chunk(BODY), END], [BEGIN + chunk(BODY) + END]])
def test_connection_serves_one_stream_after_another(answer: Answer) -> None:
    async def main() -> int:
        async with serving(answer) as server:
            model = model_of(server.base_url)
            async with model.open():
                for _ in range(5):
                    assert await events_of(model) == EVENTS
                    await no_stream_is_ending(model)
            return server.connections

    assert asyncio.run(main()) == 1


async def no_stream_is_ending(model: ResponsesModel) -> None:
    async with asyncio.timeout(10):
        for response in list(model._opened[asyncio.get_running_loop()]._ending):
            with suppress(ClientError):
                await response.content.wait_eof()


def test_connection_that_ends_late_is_used_again() -> None:
    async def main() -> int:
        late = asyncio.Event()
        async with serving([BEGIN, chunk(BODY), late, END], OK) as server:
            model = model_of(server.base_url)
            async with model.open():
                assert await events_of(model) == EVENTS
                late.set()
                await no_stream_is_ending(model)
                assert await events_of(model) == EVENTS
            return server.connections

    assert asyncio.run(main()) == 1


def test_connection_that_never_ends_is_dropped() -> None:
    async def main() -> None:
        async with serving([BEGIN, chunk(BODY), HANG]) as server:
            model = model_of(server.base_url)
            async with model.open():
                await events_of(model)
                await no_stream_is_ending(model)  # by its own timer
                await server.all_closed.wait()

    asyncio.run(main())


def test_left_stream_closes_its_connection() -> None:
    async def main() -> None:
        async with serving([BEGIN, chunk(DELTA), HANG], OK) as server:
            model = model_of(server.base_url)
            async with model.open():
                async with aclosing(model.stream(PROMPT)) as stream:  # type: ignore[type-var]
                    assert await anext(stream) == TextDelta("hi")
                async with asyncio.timeout(10):
                    await server.all_closed.wait()
                assert len(server.requests) == 1
                assert await events_of(model) == EVENTS

    asyncio.run(main())


@pytest.mark.parametrize("answer", [[HANG], [BEGIN, HANG], [BEGIN, chunk(DELTA), HANG]])
def test_cancelled_stream_asks_no_more(answer: Answer) -> None:
    async def main() -> int:
        async with serving(answer) as server:
            model = model_of(server.base_url)
            async with model.open():
                task = asyncio.create_task(events_of(model))
                await server.asked.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                async with asyncio.timeout(10):
                    await server.all_closed.wait()
            return len(server.requests)

    assert asyncio.run(main()) == 1


def test_model_that_is_not_open_refuses() -> None:
    async def main() -> None:
        model = model_of("http://127.0.0.1:1/v1")
        with pytest.raises(UnsupportedOperation, match=r"not open on this loop.*model\.open"):
            await events_of(model)
        async with model.open():
            pass
        with pytest.raises(UnsupportedOperation):
            await model.fetch_models()

    asyncio.run(main())


def test_two_users_of_one_loop_share_connections() -> None:
    async def main() -> int:
        async with serving(OK) as server:
            model = model_of(server.base_url)
            async with model.open():
                async with model.open():
                    assert await events_of(model) == EVENTS
                assert await events_of(model) == EVENTS
            return server.connections

    assert asyncio.run(main()) == 1


def test_one_model_serves_several_loops_at_once() -> None:
    together = threading.Barrier(3)

    async def ask_here(model: ResponsesModel) -> Any:
        async with model.open():
            together.wait(10)
            return await events_of(model)

    async def main() -> Any:
        async with serving(OK) as server:
            model = model_of(server.base_url)
            loops = [asyncio.to_thread(asyncio.run, ask_here(model)) for _ in range(3)]
            return await asyncio.gather(*loops)

    assert asyncio.run(main()) == [EVENTS] * 3


def test_model_is_a_provider_and_pickles() -> None:
    presets = (ModelPreset(id="m", model="m", display_name="M"),)
    model = ResponsesModel(ModelProviderInfo(name="mine", base_url="http://h/v1"), presets=presets)
    assert isinstance(model, ModelProvider)
    assert (provider_name(model), provider_presets(model)) == ("mine", presets)
    assert provider_presets(ResponsesModel())[0].model == "openai"
    assert pickle.loads(pickle.dumps(model)).info == model.info
    assert repr(model) == "ResponsesModel(ModelProviderInfo(name='mine', base_url='http://h/v1', env_key=None))"


def fetch(answer: bytes, etag: str | None = None) -> tuple[Any, str | None]:
    async def main() -> tuple[Any, str | None]:
        async with serving(answer) as server:
            model = model_of(server.base_url, request_max_retries=0)
            async with model.open():
                fetched = await model.fetch_models(etag)
            (request,) = server.requests
            assert request.line == "GET /v1/models HTTP/1.1"
            return fetched, request.headers.get("if-none-match")

    return asyncio.run(main())


def test_models_are_fetched_with_their_mark() -> None:
    body = json.dumps({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}).encode()
    fetched, sent = fetch(full(body, etag='"1"'))
    assert [preset.model for preset in fetched.presets] == ["a", "b"]
    assert (fetched.etag, sent) == ('"1"', None)


def test_models_that_did_not_change_are_none() -> None:
    assert fetch(b"HTTP/1.1 304 X\r\n\r\n", '"1"') == (None, '"1"')


@pytest.mark.parametrize("answer", [full(b"<html>"), full(b"{}"), full(b"[1]"), full(b"no", 404), full(b"no", 503)])
def test_models_that_cannot_be_read_are_an_error(answer: bytes) -> None:
    with pytest.raises(UnexpectedStatus) as caught:
        fetch(answer)
    assert isinstance(caught.value, CodexError)


def test_list_of_models_has_a_bound() -> None:
    with pytest.raises(UnexpectedStatus, match="more than 16777216 bytes"):
        fetch(full(b" " * 17_000_000))


def test_missing_library_says_what_to_install() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; import codex_actors.model.responses"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, timeout=60, check=False
    )
    assert b"ImportError: codex_actors.model.responses needs aiohttp: pip install 'codex-actors[http]'" in done.stderr


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> str:
        async with serving(OK) as proxy:
            monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
            monkeypatch.setenv("no_proxy", "127.0.0.2")
            model = model_of("http://models.invalid/v1")
            async with model.open():
                assert await events_of(model) == EVENTS
            return proxy.requests[0].line

    assert asyncio.run(main()) == "POST http://models.invalid/v1/responses HTTP/1.1"
