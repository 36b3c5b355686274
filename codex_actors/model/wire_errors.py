"""What a server of the Responses API says of a failure, as our errors: in a body, or in an event of its stream.

Source: `codex-rs/codex-api/src/sse/responses.rs` and `api_bridge.rs`, `map_api_error`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

from pydantic_core import from_json

from codex_actors.errors import (
    BadModelRequest,
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

MAX_BODY_CHARS = 4_000
"""So much of a body is kept in an error."""

REQUEST_ID_HEADERS = ("cf-ray", "x-request-id", "x-oai-request-id")

_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
"""The second is llama.cpp's; vLLM has no word of its own for it, only the text."""
_TOO_LONG_TEXT = "maximum context length"
_NO_QUOTA = frozenset({"insufficient_quota", "usage_not_included"})
_REFUSED = frozenset({"invalid_prompt", "bio_policy", "cyber_policy"})
_OVERLOADED = frozenset({"server_is_overloaded", "slow_down"})
_TIME = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|seconds?|minutes?|hours?)(?![a-z])"
_PAUSE = re.compile(rf"try again in\s*(?:{_TIME}\s*)+", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def stream_error(error: Any) -> ModelError:
    """The error of a `response.failed` or `error` event; `error` is its JSON `{"code", "message", ...}`."""
    fields = error if isinstance(error, dict) else {}
    code, message = _code(fields), _message(fields)
    known = _known_error(fields, code, message)
    if known is not None:
        return known
    delay_s = pause_in(message) if code == "rate_limit_exceeded" else None
    return StreamError(message or "the server reported a failure without a reason", delay_s)


def status_error(status: int, headers: Mapping[str, str], body: str) -> ModelError:
    """The error of an answer with an HTTP status that is no success."""
    fields = _error_of(body)
    code = _code(fields)
    message = _message(fields) or body.strip()[:MAX_BODY_CHARS]
    if status in (401, 403):
        return Unauthorized(status, message or "no reason given")
    if status == 400:
        return _known_error(fields, code, message) or BadModelRequest(message or "no reason given")
    known = _known_error(fields, code, message) if status == 429 or status >= 500 else None
    if known is not None:
        return known
    if status == 429:
        pause_s = retry_after_s(headers)
        return RetryLimit(429, request_id(headers), pause_in(message) if pause_s is None else pause_s)
    if status == 500:
        return InternalServerError(message)
    return UnexpectedStatus(status, body.strip()[:MAX_BODY_CHARS], request_id(headers))


def request_id(headers: Mapping[str, str]) -> str | None:
    """The server's name for the request, or None."""
    return next((headers[name] for name in REQUEST_ID_HEADERS if headers.get(name)), None)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The pause that `retry-after-ms` or `retry-after` (seconds, or a date) asks for, from 0; None where there is none."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = (headers.get(name) or "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        if isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after") or "").timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def pause_in(text: str) -> float | None:
    """The seconds of `try again in 11.054s` (or `28ms`, `35 seconds`, `6m0s`) in `text`, or None."""
    found = _PAUSE.search(text)
    if found is None:
        return None
    times = re.findall(_TIME, found[0].lower())
    return sum(float(count) * _UNITS[unit if unit == "ms" else unit[0]] for count, unit in times)


def _known_error(fields: dict[str, Any], code: str, message: str) -> ModelError | None:
    if code in _TOO_LONG or _TOO_LONG_TEXT in message.lower():
        return ContextWindowExceeded()
    if code in _NO_QUOTA:
        return QuotaExceeded(message or code)
    if code == "usage_limit_reached":
        return UsageLimitReached(message or code, _resets_at(fields))
    if code in _REFUSED:
        return BadModelRequest(message or code)
    if code in _OVERLOADED:
        return ServerOverloaded()
    return None


def _resets_at(fields: dict[str, Any]) -> float | None:
    at, in_s = fields.get("resets_at"), fields.get("resets_in_seconds")
    if isinstance(at, int | float):
        return float(at)
    return time.time() + in_s if isinstance(in_s, int | float) else None


def _error_of(body: str) -> dict[str, Any]:
    """The error object of a JSON body: `{"error": {...}}`, `{"error": "text"}`, or the body itself."""
    try:
        value = from_json(body)
    except ValueError:
        return {}
    error = value.get("error", value) if isinstance(value, dict) else {}
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _code(fields: dict[str, Any]) -> str:
    """Its `code`, else its `type`: some servers have only one of them, and some a number as code."""
    code, kind = fields.get("code"), fields.get("type")
    if isinstance(kind, str) and kind in _KNOWN:
        return kind
    return code if isinstance(code, str) else kind if isinstance(kind, str) else ""


_KNOWN = _TOO_LONG | _NO_QUOTA | _REFUSED | _OVERLOADED | {"usage_limit_reached"}


def _message(fields: dict[str, Any]) -> str:
    for name in ("message", "detail"):
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()[:MAX_BODY_CHARS]
    return ""
