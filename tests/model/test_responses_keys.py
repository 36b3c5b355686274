from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import MissingCredentials, Unauthorized
from codex_actors.services.auth import AuthManager
from codex_actors.testing import no_leaks
from tests.model._server import (
    CUT,
    NO_RETRY,
    OK,
    Answer,
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


def test_new_key_is_read_after_a_401(tmp_path: Path) -> None:
    auth_path = tmp_path / "auth.json"

    async def main() -> list[str]:
        auth_path.write_text('{"OPENAI_API_KEY": "old-key"}')
        async with serving(OK, refusal(401), OK) as server:
            model = model_of(server.base_url, AuthManager(tmp_path))
            async with model.open():
                await events_of(model)
                auth_path.write_text('{"OPENAI_API_KEY": "new-key"}')
                await events_of(model)
        return [request.headers["authorization"] for request in server.requests]

    assert asyncio.run(main()) == ["Bearer old-key", "Bearer old-key", "Bearer new-key"]


def test_key_that_stays_is_refused_once(tmp_path: Path) -> None:
    async def main() -> int:
        (tmp_path / "auth.json").write_text('{"OPENAI_API_KEY": "old-key"}')
        async with serving(refusal(401, "wrong key")) as server:
            model = model_of(server.base_url, AuthManager(tmp_path))
            async with model.open():
                with pytest.raises(Unauthorized, match="wrong key"):
                    await events_of(model)
        return len(server.requests)

    assert asyncio.run(main()) == 1


def test_missing_key_asks_nobody() -> None:
    async def main() -> int:
        async with serving(OK) as server:
            model = model_of(server.base_url, env_key="SURELY_NOT_SET_7")
            async with model.open():
                with pytest.raises(MissingCredentials):
                    await events_of(model)
        return len(server.requests)

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize(
    "answer",
    [
        refusal(401, f"wrong key {KEY}, or sk-te***cdef"),
        refusal(400, f"header {KEY}"),
        refusal(404, f"header {KEY}"),
        refusal(500, f"header {KEY}"),
        refusal(429, KEY, x_request_id=KEY),
        full(KEY.encode(), 404),
        failed("other", f"you sent {KEY}"),
        failed("insufficient_quota", f"you sent {KEY}"),
        full(event("response.incomplete", response={"incomplete_details": {"reason": KEY}})),
        full(b"", kind=f"text/{KEY}"),
        [CUT],
    ],
)
def test_server_that_repeats_the_key_is_not_quoted(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    _, error, _ = fail(answer, experimental_bearer_token=KEY, query_params={"key": KEY}, **NO_RETRY)
    for text in (str(error), repr(error), repr(error.args), repr(error.__cause__), caplog.text):
        assert KEY not in text
        assert "cdef" not in text
