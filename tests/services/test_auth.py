from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.services.auth import AuthManager, CodexAuth

SECRET = "sk-do-not-show"


def write(home: Path, content: Any) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (home / "auth.json").write_bytes(text)


def test_repr_never_shows_the_secret() -> None:
    auths = (CodexAuth.from_api_key(SECRET), CodexAuth("chatgpt", access_token=SECRET))
    managers = [AuthManager.from_auth_for_testing(auth) for auth in auths]
    assert SECRET not in f"{auths!r} {auths} {managers}"


def test_token_is_that_of_the_mode() -> None:
    assert CodexAuth.from_api_key("k").token == "k"
    assert CodexAuth.create_dummy().token == "Access Token"


def test_home_without_a_file_has_no_credentials(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert AuthManager(tmp_path).auth() is None
    assert AuthManager(None).auth() is None
    assert not caplog.records


def test_api_key_wins_over_tokens(tmp_path: Path) -> None:
    write(tmp_path, {"OPENAI_API_KEY": "k", "tokens": {"access_token": "t"}})
    assert AuthManager(tmp_path).auth() == CodexAuth.from_api_key("k")


def test_tokens_without_a_key_are_chatgpt(tmp_path: Path) -> None:
    tokens = {"id_token": "i", "access_token": "t", "refresh_token": "r", "account_id": "a"}
    write(tmp_path, {"OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": "2026-01-01T00:00:00Z"})
    assert AuthManager(tmp_path).auth() == CodexAuth("chatgpt", access_token="t", account_id="a")


def test_file_without_credentials_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"OPENAI_API_KEY": None})
    assert AuthManager(tmp_path).auth() is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (f'{{"OPENAI_API_KEY": "{SECRET}"'.encode(), "not JSON"),
        (SECRET.encode() + b"\xff", "not JSON"),
        ([SECRET], "expected an object"),
        ({"OPENAI_API_KEY": [SECRET]}, "OPENAI_API_KEY is not a string"),
        ({"tokens": SECRET}, "tokens is not an object"),
        ({"tokens": {"refresh_token": SECRET}}, "tokens has no access_token"),
        ({"tokens": {"access_token": [SECRET]}}, "access_token is not a string"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_bad_file_warns_without_the_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any, text: str
) -> None:
    write(tmp_path, content)
    assert AuthManager(tmp_path).auth() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert text in record.getMessage()
    assert str(tmp_path / "auth.json") in record.getMessage()
    assert SECRET not in caplog.text


def test_unreadable_file_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "auth.json").mkdir()
    assert AuthManager(tmp_path).auth() is None
    assert "cannot be read" in caplog.text


def test_credentials_stay_until_reload(tmp_path: Path) -> None:
    write(tmp_path, {"OPENAI_API_KEY": "one"})
    manager = AuthManager(tmp_path)
    assert manager.auth() == CodexAuth.from_api_key("one")
    write(tmp_path, {"OPENAI_API_KEY": "two"})
    assert manager.auth() == CodexAuth.from_api_key("one")
    assert manager.reload()
    assert manager.auth() == CodexAuth.from_api_key("two")
    assert not manager.reload()


def test_fixed_credentials_survive_reload() -> None:
    manager = AuthManager.from_auth_for_testing(CodexAuth.create_dummy())
    assert not manager.reload()
    assert manager.auth() == CodexAuth.create_dummy()


def test_manager_pickles_with_its_credentials(tmp_path: Path) -> None:
    write(tmp_path, {"OPENAI_API_KEY": "k"})
    manager = AuthManager(tmp_path)
    manager.auth()
    (tmp_path / "auth.json").unlink()
    assert pickle.loads(pickle.dumps(manager)).auth() == CodexAuth.from_api_key("k")


@given(
    content=st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_file_breaks_the_manager(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    home = tmp_path_factory.mktemp("home")
    write(home, content)
    assert AuthManager(home).auth() is None
