from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack, suppress
from email.utils import formatdate
from typing import Any

import pytest

from codex_actors.errors import (
    BadModelRequest,
    ConnectionFailed,
    ContextWindowExceeded,
    InternalServerError,
    ModelError,
    QuotaExceeded,
    RetryLimit,
    ServerOverloaded,
    StreamError,
    Unauthorized,
    UnexpectedStatus,
    UsageLimitReached,
)
from codex_actors.model.provider import Completed, ItemDone, Retrying, TextDelta
from codex_actors.testing import no_leaks
from tests.model._server import (
    ADDED,
    BEGIN,
    BODY,
    CALL,
    CUT,
    DELTA,
    HANG,
    MESSAGE,
    NO_RETRY,
    OK,
    PROMPT,
    Answer,
    ask,
    chunk,
    done,
    event,
    events_of,
    fail,
    failed,
    full,
    model_of,
    refusal,
    serving,
)

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def _leaves_nothing_open() -> Any:
    with no_leaks():
        yield


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("context_length_exceeded", ContextWindowExceeded, "context window"),
        ("insufficient_quota", QuotaExceeded, "because"),
        ("usage_not_included", QuotaExceeded, "because"),
        ("usage_limit_reached", UsageLimitReached, "because"),
        ("invalid_prompt", BadModelRequest, "because"),
        ("cyber_policy", BadModelRequest, "because"),
        ("server_is_overloaded", ServerOverloaded, "overloaded"),
        ("slow_down", ServerOverloaded, "overloaded"),
    ],
)
def test_failure_without_hope_is_not_tried_again(code: str, kind: type[ModelError], text: str) -> None:
    events, error, requests = fail(failed(code))
    assert (type(error), events, requests) == (kind, [], 1)
    assert text in str(error)


@pytest.mark.parametrize(
    ("body", "message", "delay_s"),
    [
        (failed("server_error"), "because", None),
        (failed("rate_limit_exceeded", "Please try again in 11.054s."), "Please try again in 11.054s.", 11.054),
        (failed("rate_limit_exceeded", "try again in 28ms"), "try again in 28ms", 0.028),
        (failed("rate_limit_exceeded", "Try again in 35 seconds"), "Try again in 35 seconds", 35.0),
        (failed("other", "try again in 35 seconds"), "try again in 35 seconds", None),
        (full(event("response.failed", response=None)), "the server reported a failure without a reason", None),
        (full(event("error", code="x", message="broken")), "broken", None),
        (full(event("error", error={"message": "broken"})), "broken", None),
        (full(b'event: error\ndata: {"error": {"message": "broken"}}\n\n'), "broken", None),
        (
            full(event("response.incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})),
            "Incomplete response returned, reason: max_output_tokens",
            None,
        ),
        (full(ADDED + DELTA), "stream closed before response.completed", None),
        (full(b""), "stream closed before response.completed", None),
        (
            full(b"<html>", kind="text/html"),
            "stream closed before response.completed: the server sent text/html, not text/event-stream",
            None,
        ),
        ([BEGIN, chunk(DELTA), CUT], "the connection broke in the middle of the answer", None),
    ],
)
def test_broken_stream_says_how_it_broke(body: Answer, message: str, delay_s: float | None) -> None:
    _, error, requests = fail(body, **NO_RETRY)
    assert isinstance(error, StreamError)
    assert (error.message, error.delay_s, requests) == (message, delay_s, 1)


@pytest.mark.parametrize(
    ("answer", "kind", "requests", "is_told"),
    [
        (refusal(400, "bad tool"), BadModelRequest, 1, False),
        (refusal(400, code="context_length_exceeded"), ContextWindowExceeded, 1, False),
        (refusal(400, "This model's maximum context length is 4096 tokens."), ContextWindowExceeded, 1, False),
        (refusal(401), Unauthorized, 1, False),
        (refusal(403), Unauthorized, 1, False),
        (refusal(404, "no model"), UnexpectedStatus, 1, False),
        (refusal(307, location="http://127.0.0.1:1/"), UnexpectedStatus, 1, False),
        (refusal(429, code="insufficient_quota"), QuotaExceeded, 1, False),
        (refusal(429, code="usage_limit_reached"), UsageLimitReached, 1, False),
        (refusal(429), RetryLimit, 3, True),
        (refusal(500), InternalServerError, 9, True),
        (refusal(502), UnexpectedStatus, 9, True),
        (refusal(503, code="server_is_overloaded"), ServerOverloaded, 3, False),
        (refusal(408), UnexpectedStatus, 3, True),
        (full(b"not JSON", 400), BadModelRequest, 1, False),
        ([b"HTTP/1.1 418 X\r\ncontent-length: 9\r\n\r\nno", CUT], UnexpectedStatus, 1, False),
        (b"not HTTP\r\n\r\n", ConnectionFailed, 9, True),
        ([CUT], ConnectionFailed, 9, True),
    ],
)
def test_refusal_is_typed_and_tried_as_it_should(
    answer: Answer, kind: type[ModelError], requests: int, is_told: bool
) -> None:
    events, error, count = fail(answer, request_max_retries=2, stream_max_retries=2)
    assert (type(error), count) == (kind, requests)
    notices = [Retrying("Reconnecting... 1/2"), Retrying("Reconnecting... 2/2")]
    assert events == (notices if is_told else [])


def test_refusal_keeps_what_the_server_said() -> None:
    error = fail(full(b"x" * 10_000, 404, x_request_id="req-7", cf_ray="ray-7"))[1]
    assert isinstance(error, UnexpectedStatus)
    assert (error.status, len(error.body), error.request_id) == (404, 4000, "ray-7")
    error = fail(refusal(429, x_oai_request_id="req-8"), **NO_RETRY)[1]
    assert isinstance(error, RetryLimit)
    assert (error.status, error.request_id, error.delay_s) == (429, "req-8", None)
    assert str(fail(refusal(500, "deep trouble"), **NO_RETRY)[1]).startswith(
        "the model's server has an internal error (deep trouble)"
    )


@pytest.mark.parametrize("fields", [{"resets_at": 1_900_000_000}, {"resets_in_seconds": 10}, {}])
def test_usage_limit_says_when_it_ends(fields: dict[str, Any]) -> None:
    body = json.dumps({"error": {"type": "usage_limit_reached", "message": "enough", **fields}}).encode()
    error = fail(full(body, 429, "application/json"))[1]
    assert isinstance(error, UsageLimitReached)
    assert (error.resets_at is None) == (not fields)
    assert "resets_at" not in fields or error.resets_at == 1_900_000_000


def test_broken_server_is_asked_again_in_silence() -> None:
    events, server = ask(refusal(500), refusal(503, retry_after="0"), [CUT], OK)
    assert events == ask(OK)[0]
    assert len(server.requests) == 4
    assert server.requests[0] == server.requests[3]


@pytest.mark.parametrize("headers", [{"retry_after": "0"}, {"retry_after_ms": "1"}, {"retry_after": formatdate(0)}])
def test_full_server_is_asked_again_with_notice(headers: dict[str, str]) -> None:
    events, server = ask(refusal(429, **headers), OK, retry_base_s=100.0)
    assert events == [Retrying("Reconnecting... 1/5"), *ask(OK)[0]]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429, retry_after="3600"),
        refusal(503, retry_after="3600"),
        refusal(429, "try again in 60 minutes"),
        failed("rate_limit_exceeded", "try again in 3600 seconds"),
    ],
)
def test_server_that_asks_for_hours_is_not_waited_for(answer: bytes) -> None:
    events, error, requests = fail(answer)
    assert (events, requests) == ([], 1)
    assert getattr(error, "delay_s", 3600.0) == 3600.0


def test_retried_stream_has_what_was_whole() -> None:
    broken = full(ADDED + DELTA + done() + ADDED + DELTA)
    events, server = ask(broken, OK)
    assert [type(each).__name__ for each in events[:6]] == [
        *("ItemAdded", "TextDelta", "ItemDone", "ItemAdded", "TextDelta"),
        "Retrying",
    ]
    assert events[6:] == ask(OK)[0]
    first, second = (request.body["input"] for request in server.requests)
    assert second == [*first, {name: value for name, value in MESSAGE.items() if name != "id"}]


@pytest.mark.parametrize("retries", [0, 5])
def test_stream_that_broke_behind_a_call_completes(retries: int) -> None:
    events, server = ask([BEGIN, chunk(done(CALL) + ADDED + DELTA), CUT], stream_max_retries=retries)
    assert isinstance(events[0], ItemDone)
    assert events[-1] == Completed(None)
    assert (Retrying("Reconnecting... 1/5") in events, len(server.requests)) == (retries > 0, 1)


def test_refused_stream_behind_a_call_is_an_error() -> None:
    body = done(CALL) + event("response.failed", response={"error": {"code": "insufficient_quota"}})
    events, error, _ = fail(full(body))
    assert (len(events), type(error)) == (1, QuotaExceeded)


def test_spent_retries_give_the_last_error() -> None:
    events, error, requests = fail(full(DELTA), stream_max_retries=3)
    assert [each.message for each in events if isinstance(each, Retrying)] == [
        *("Reconnecting... 1/3", "Reconnecting... 2/3", "Reconnecting... 3/3")
    ]
    assert (type(error), requests) == (StreamError, 4)


@pytest.mark.parametrize("form", [OK, BEGIN + chunk(BODY) + b"0\r\n\r\n"])
def test_answer_cut_anywhere_is_begun_again(form: bytes) -> None:
    async def main() -> None:
        for at in range(0, len(form), 11):
            async with serving([form[:at], CUT], OK) as server:
                model = model_of(server.base_url)
                async with model.open():
                    events = await events_of(model)
                assert TextDelta("hi") in events
                assert type(events[-1]) is Completed

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "settings", "kind", "text"),
    [
        (
            [HANG],
            {"first_byte_timeout_s": 0.02, "connect_timeout_s": 0.02},
            ConnectionFailed,
            "no answer within 0.02 s",
        ),
        ([BEGIN, HANG], {"stream_idle_timeout_s": 0.02}, StreamError, "idle timeout waiting for SSE"),
        ([BEGIN, chunk(DELTA), HANG], {"stream_idle_timeout_s": 0.02}, StreamError, "idle timeout waiting for SSE"),
    ],
)
def test_silent_server_is_given_up(answer: Answer, settings: dict[str, float], kind: type, text: str) -> None:
    _, error, requests = fail(answer, **settings, **NO_RETRY)
    assert (type(error), requests) == (kind, 1)
    assert text in str(error)


def test_server_that_is_not_there_is_named() -> None:
    async def main() -> str:
        async with serving(OK) as server:
            pass
        model = model_of(server.base_url, request_max_retries=1, stream_max_retries=0)
        async with model.open():
            with pytest.raises(ConnectionFailed) as caught:
                await events_of(model)
        assert caught.value.host == server.base_url[len("http://") : -len("/v1")]
        return caught.value.reason

    assert "Connect call failed" in asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "proxy", "reason"),
    [
        ("models.invalid", "", ""),
        ("a..b", "", "the address, the proxy, or a header is not valid"),
        ("models.invalid", "nonsense", "the address, the proxy, or a header is not valid"),
        ("models.invalid", f"http://user:{KEY}@127.0.0.1:1", "Connect call failed"),
    ],
)
def test_address_that_leads_nowhere_is_named(
    monkeypatch: pytest.MonkeyPatch, host: str, proxy: str, reason: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    error = unreached(f"http://{host}/v1")
    assert error.host == host
    assert reason in error.reason
    assert KEY not in str(error)


def test_server_that_takes_no_connection_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(4):  # its queue is full then
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = "http://{}:{}/v1".format(*listener.getsockname())
        assert unreached(url, connect_timeout_s=0.02).reason == "not reached within 0.02 s"


def unreached(base_url: str, **settings: Any) -> ConnectionFailed:
    async def main() -> ConnectionFailed:
        model = model_of(base_url, **settings, **NO_RETRY)
        async with model.open():
            with pytest.raises(ConnectionFailed) as caught:
                await events_of(model)
        return caught.value

    return asyncio.run(main())


def test_close_during_a_pause_ends_the_stream() -> None:
    async def main() -> int:
        async with serving(full(DELTA)) as server:
            model = model_of(server.base_url, retry_base_s=100.0)
            async with model.open():
                stream = model.stream(PROMPT)
                assert [await anext(stream), await anext(stream)] == [TextDelta("hi"), Retrying("Reconnecting... 1/5")]
                task = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)  # the task stands in the pause now
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        return len(server.requests)

    assert asyncio.run(main()) == 1
