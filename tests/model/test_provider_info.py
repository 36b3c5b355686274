from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import InvalidRequest, MissingCredentials
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.services.auth import AuthManager, CodexAuth
from codex_actors.version import __version__

KEY = "sk-test-0123456789abcdef"
LOCAL = ModelProviderInfo(name="local", base_url="http://127.0.0.1:1/v1")
STORED = AuthManager.from_auth_for_testing(CodexAuth.from_api_key("stored-key"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "SOME_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_codex() -> None:
    info = ModelProviderInfo()
    assert (info.name, info.base_url, info.env_key) == ("openai", None, None)
    assert (info.request_max_retries, info.stream_max_retries, info.stream_idle_timeout_s) == (4, 5, 300.0)


def test_retries_are_capped_at_a_hundred() -> None:
    info = replace(LOCAL, request_max_retries=1000, stream_max_retries=101)
    assert (info.request_max_retries, info.stream_max_retries) == (100, 100)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("name", " ", "not blank"),
        ("name", None, "not blank"),
        ("base_url", "api.openai.com/v1", "expected a URL such as"),
        ("base_url", "ftp://host/v1", "expected a URL such as"),
        ("base_url", "https:///v1", "expected a URL such as"),
        ("base_url", "https://host:99999/v1", "expected a URL such as"),
        ("base_url", "https://ho st/v1", "expected a URL such as"),
        ("base_url", 7, "expected a URL such as"),
        ("base_url", f"https://user:{KEY}@host/v1", "holds a user or password"),
        ("base_url", f"https://host/v1?key={KEY}", "holds a query"),
        ("env_key", KEY, "not a key"),
        ("env_key", "", "not a key"),
        ("env_key_instructions", 7, "expected text"),
        ("experimental_bearer_token", " ", "expected a key"),
        ("experimental_bearer_token", f"{KEY}\nx", "expected a key of one line"),
        ("query_params", [("a", "b")], "expected a mapping"),
        ("query_params", {"": "b"}, "'' is no name"),
        ("http_headers", {"a b": "c"}, "'a b' is no name"),
        ("http_headers", {"a": f"{KEY}\r\nx: y"}, "the value of 'a' is not text of one line"),
        ("http_headers", {"a": 7}, "the value of 'a' is not text"),
        ("env_http_headers", {"a": KEY}, "the name of an environment variable"),
        ("request_max_retries", -1, "-1 is not a whole number"),
        ("stream_max_retries", True, "True is not a whole number"),
        ("stream_idle_timeout_s", 0, "0 is not a number of seconds"),
        ("connect_timeout_s", float("inf"), "inf is not a number of seconds"),
        ("first_byte_timeout_s", float("nan"), "nan is not a number of seconds"),
        ("retry_base_s", "1", "'1' is not a number of seconds"),
        ("retry_max_s", None, "None is not a number of seconds"),
    ],
)
def test_wrong_field_is_named_without_secrets(field: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        replace(LOCAL, **{field: value})
    assert caught.value.message.startswith(f"ModelProviderInfo.{field}: ")
    assert KEY not in str(caught.value)


def test_no_secret_comes_into_a_repr() -> None:
    info = replace(
        LOCAL,
        experimental_bearer_token=KEY,
        query_params={"api-key": KEY},
        http_headers={"x-key": KEY},
        env_http_headers={"x-other": "SOME_KEY"},
    )
    texts = [repr(info), str(info), f"{info}", repr(info.access("responses")), str([info])]
    assert not [text for text in texts if KEY in text]
    assert "x-key" in repr(info)
    assert pickle.loads(pickle.dumps(info)) == info


def test_key_is_looked_for_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    both = replace(LOCAL, env_key="SOME_KEY", experimental_bearer_token="given-token")
    assert both.access("x", STORED).headers["authorization"] == f"Bearer {KEY}"
    assert replace(both, env_key=None).access("x", STORED).token == "given-token"
    assert LOCAL.access("x", STORED).token == "stored-key"
    assert "authorization" not in LOCAL.access("x").headers


@pytest.mark.parametrize("value", [None, "", "  "])
def test_missing_key_says_what_to_do(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    info = replace(LOCAL, env_key="SOME_KEY", env_key_instructions="Get one at example.org.", name="n")
    with pytest.raises(MissingCredentials, match=r"SOME_KEY is not set or blank\. Get one at example\.org\."):
        info.access("responses", STORED)


def test_key_with_a_line_break_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f"{KEY}\nx: y")
    with pytest.raises(MissingCredentials, match="SOME_KEY holds a line break") as caught:
        replace(LOCAL, env_key="SOME_KEY").access("responses")
    assert KEY not in str(caught.value)


def test_chatgpt_login_is_refused_clearly() -> None:
    manager = AuthManager.from_auth_for_testing(CodexAuth.create_dummy())
    with pytest.raises(MissingCredentials, match=r"ChatGPT tokens.*with an API key"):
        ModelProviderInfo().access("responses", manager)


def test_openai_itself_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingCredentials, match="no API key for OpenAI"):
        ModelProviderInfo().access("responses", AuthManager(None))
    assert (
        ModelProviderInfo(http_headers={"Authorization": "Basic x"}).access("x").headers["authorization"] == "Basic x"
    )
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert ModelProviderInfo().access("responses").url == "http://127.0.0.1:1/v1/responses"
    assert replace(LOCAL, base_url="https://h/v1//").access("responses").url == "https://h/v1/responses"


def test_wrong_base_url_of_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(InvalidRequest, match="OPENAI_BASE_URL: expected a URL"):
        ModelProviderInfo().access("responses")


def test_headers_come_from_settings_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "from-environment")
    monkeypatch.setenv("BLANK", " ")
    info = replace(
        LOCAL,
        http_headers={"X-Plain": "plain", "User-Agent": "mine"},
        env_http_headers={"api-key": "SOME_KEY", "x-blank": "BLANK", "x-unset": "NOT_SET"},
    )
    assert info.access("x").headers == {
        "user-agent": "mine",
        "originator": "codex_actors",
        "x-plain": "plain",
        "api-key": "from-environment",
    }
    assert LOCAL.access("x").headers["user-agent"] == f"codex_actors/{__version__}"


def test_secrets_are_cut_out_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "my secret/key")
    info = replace(LOCAL, env_key="SOME_KEY", http_headers={"x-auth": "Basic dXNlcjpwYXNz", "x": "2"})
    text = "my secret/key my%20secret%2Fkey my+secret%2Fkey dXNlcjpwYXNz sk-proj-****abcd 22"
    assert info.access("x").without_secrets(text) == " ".join(["[redacted]"] * 5 + ["22"])


@pytest.mark.parametrize(
    ("changes", "is_azure"),
    [
        ({}, False),
        ({"name": "Azure"}, True),
        ({"base_url": "https://me.openai.azure.com/openai/v1"}, True),
        ({"base_url": "https://foo.cognitiveservices.azure.us/openai"}, True),
        ({"base_url": "https://example.com/openai"}, False),
    ],
)
def test_azure_is_known_by_name_or_address(changes: dict[str, Any], is_azure: bool) -> None:
    assert replace(LOCAL, **changes).is_azure is is_azure


def test_settings_need_no_http_library() -> None:
    code = "import sys, codex_actors.model.provider_info; sys.exit('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60, check=False)
    assert done.returncode == 0
