from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from codex_actors.errors import BadModelRequest, ContextWindowExceeded, QuotaExceeded, UnexpectedStatus
from codex_actors.model.wire_errors import pause_in, retry_after_s, status_error, stream_error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 11.054s. Visit", 11.054),
        ("try again in 28ms.", 0.028),
        ("Try again in 35 seconds", 35.0),
        ("try again in 1 second", 1.0),
        ("try again in 2 minutes", 120.0),
        ("try again in 5m", 300.0),
        ("try again in 6m0s.", 360.0),
        ("try again in 1h2m3.5s", 3723.5),
        ("try again in 2 minutes 5 seconds", 125.0),
        ("try again in 3 moons", None),
        ("try again later", None),
    ],
)
def test_pause_is_found_in_a_text(text: str, seconds: float | None) -> None:
    assert pause_in(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
        ({"retry-after": "Fri, 99 Nov 9999 00:00:00 GMT"}, None),
    ],
)
def test_pause_is_found_in_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_date_in_a_header_is_a_pause() -> None:
    pause_s = retry_after_s({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert pause_s is not None
    assert 0 < pause_s <= 100


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": " bad "}}', "bad"),
        ('{"error": "bad"}', "bad"),
        ('{"object": "error", "message": "bad", "code": 400}', "bad"),
        ('{"detail": "bad"}', "bad"),
        ('{"detail": [1]}', '{"detail": [1]}'),
        ("bad", "bad"),
        ("[1]", "[1]"),
        ("", "no reason given"),
    ],
)
def test_message_is_found_in_any_body(body: str, message: str) -> None:
    error = status_error(400, {}, body)
    assert isinstance(error, BadModelRequest)
    assert error.message == message


def test_words_of_other_servers_are_known() -> None:
    body = '{"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}'
    assert isinstance(status_error(400, {}, body), ContextWindowExceeded)
    assert isinstance(stream_error({"type": "insufficient_quota", "code": None}), QuotaExceeded)


def test_status_without_a_class_keeps_its_body() -> None:
    error = status_error(404, {"x-request-id": "r"}, '{"error": {"message": "no such model"}}')
    assert isinstance(error, UnexpectedStatus)
    assert (error.status, error.body, error.request_id) == (404, '{"error": {"message": "no such model"}}', "r")
