from __future__ import annotations

import json
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest, MissingCredentials, UnsupportedOperation
from codex_actors.services.auth import API_KEY_ENV, CHATGPT_TOKENS_REFUSED, NO_API_KEY, AuthManager, CodexAuth

SECRET = "sk-do-not-show"
TOKENS = {"id_token": "i", "access_token": "t", "refresh_token": "r", "account_id": "a", "later": [1.5, None]}


@pytest.fixture(autouse=True)
def no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_ENV, raising=False)


def write(home: Path, content: Any) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (home / "auth.json").write_bytes(text)


def stored(home: Path) -> Any:
    return json.loads((home / "auth.json").read_bytes())


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


# --- the environment ---------------------------------------------------------------------------------------------------


def test_variable_wins_only_where_enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_ENV, f" {SECRET}\n")
    write(tmp_path, {"OPENAI_API_KEY": "k"})
    assert AuthManager(tmp_path).auth() == CodexAuth.from_api_key("k")
    enabled = AuthManager(tmp_path, enable_codex_api_key_env=True)
    assert enabled.auth() == CodexAuth.from_api_key(SECRET)
    assert SECRET not in f"{enabled!r} {vars(enabled)}"


def test_variable_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_ENV, "k")
    assert AuthManager(None, enable_codex_api_key_env=True).auth() == CodexAuth.from_api_key("k")


def test_blank_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_ENV, " ")
    write(tmp_path, {"OPENAI_API_KEY": "k"})
    assert AuthManager(tmp_path, enable_codex_api_key_env=True).auth() == CodexAuth.from_api_key("k")


# --- who may send a request --------------------------------------------------------------------------------------------


def test_mode_is_that_of_the_credentials(tmp_path: Path) -> None:
    manager = AuthManager(tmp_path)
    assert manager.auth_mode() is None
    write(tmp_path, {"tokens": TOKENS})
    assert manager.reload()
    assert manager.auth_mode() == "chatgpt"
    manager.login_with_api_key("k")
    assert manager.auth_mode() == "apikey"


def test_required_key_is_the_stored_one(tmp_path: Path) -> None:
    write(tmp_path, {"OPENAI_API_KEY": "k", "tokens": TOKENS})
    assert AuthManager(tmp_path).require_api_key() == "k"


@pytest.mark.parametrize(("content", "text"), [({}, NO_API_KEY), ({"tokens": TOKENS}, CHATGPT_TOKENS_REFUSED)])
def test_missing_key_says_what_to_do(tmp_path: Path, content: Any, text: str) -> None:
    write(tmp_path, content)
    with pytest.raises(MissingCredentials) as caught:
        AuthManager(tmp_path).require_api_key()
    assert str(caught.value) == text
    assert "OPENAI_API_KEY" in text


# --- login and logout --------------------------------------------------------------------------------------------------


def test_login_makes_a_private_file(tmp_path: Path) -> None:
    manager = AuthManager(tmp_path / "home")
    assert manager.auth() is None
    manager.login_with_api_key(f" {SECRET}\n")
    assert manager.auth() == CodexAuth.from_api_key(SECRET)
    assert stored(tmp_path / "home") == {"OPENAI_API_KEY": SECRET}
    assert (tmp_path / "home" / "auth.json").stat().st_mode & 0o777 == 0o600


def test_login_keeps_tokens_and_unknown_fields(tmp_path: Path) -> None:
    others = {"tokens": TOKENS, "last_refresh": "2026-01-01T00:00:00.123456789Z", "later": {"é\ud800": 10**30}}
    write(tmp_path, {"OPENAI_API_KEY": None, **others})
    AuthManager(tmp_path).login_with_api_key("k")
    assert stored(tmp_path) == {"OPENAI_API_KEY": "k", **others}


@pytest.mark.parametrize(
    "key", ["", " \n", None, f"{SECRET} {SECRET}", f"{SECRET}\r\nx", f"{SECRET}é", SECRET.encode()]
)
def test_impossible_key_is_refused_unseen(tmp_path: Path, key: Any) -> None:
    with pytest.raises(InvalidRequest, match="key: an API key") as caught:
        AuthManager(tmp_path).login_with_api_key(key)
    assert SECRET not in repr(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"{", b"[]", SECRET.encode() + b"\xff", b"[" * 100_000])
def test_damaged_file_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    for change in (lambda: AuthManager(tmp_path).login_with_api_key("k"), AuthManager(tmp_path).logout):
        with pytest.raises(UnsupportedOperation, match="left as it was") as caught:
            change()
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None
    assert (tmp_path / "auth.json").read_bytes() == content


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UnsupportedOperation, match=r"auth\.json cannot be"):
        AuthManager(tmp_path / "home").login_with_api_key(SECRET)
    (tmp_path / "auth.json").mkdir()
    with pytest.raises(UnsupportedOperation, match=r"auth\.json cannot be read: Is a directory"):
        AuthManager(tmp_path).login_with_api_key(SECRET)


@pytest.mark.parametrize("manager", [AuthManager(None), AuthManager.from_auth_for_testing(CodexAuth.create_dummy())])
def test_login_and_logout_need_a_file(manager: AuthManager) -> None:
    with pytest.raises(UnsupportedOperation, match="log in"):
        manager.login_with_api_key("k")
    with pytest.raises(UnsupportedOperation, match="log out"):
        manager.logout()


def test_logout_removes_a_file_without_more(tmp_path: Path) -> None:
    manager = AuthManager(tmp_path)
    assert not manager.logout()
    manager.login_with_api_key("k")
    assert manager.logout()
    assert manager.auth() is None
    assert list(tmp_path.iterdir()) == []


def test_logout_leaves_the_tokens_alone(tmp_path: Path) -> None:
    write(tmp_path, {"OPENAI_API_KEY": "k", "tokens": TOKENS})
    manager = AuthManager(tmp_path)
    assert manager.logout()
    assert stored(tmp_path) == {"OPENAI_API_KEY": None, "tokens": TOKENS}
    assert manager.auth_mode() == "chatgpt"
    assert not manager.logout()
    assert stored(tmp_path) == {"OPENAI_API_KEY": None, "tokens": TOKENS}


def test_two_logins_at_once_leave_one_key(tmp_path: Path) -> None:
    write(tmp_path, {"tokens": TOKENS})
    keys = [f"k{index}" for index in range(8)]
    os_threads = [threading.Thread(target=AuthManager(tmp_path).login_with_api_key, args=(key,)) for key in keys]
    for os_thread in os_threads:
        os_thread.start()
    for os_thread in os_threads:
        os_thread.join()
    last = stored(tmp_path)
    assert last["OPENAI_API_KEY"] in keys
    assert last["tokens"] == TOKENS
    assert len(list(tmp_path.iterdir())) == 1


# --- what the log says -------------------------------------------------------------------------------------------------


def test_open_file_with_credentials_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"OPENAI_API_KEY": SECRET})
    (tmp_path / "auth.json").chmod(0o640)
    assert AuthManager(tmp_path).auth() is not None
    assert f"{tmp_path / 'auth.json'} can be read by others than its owner (mode 640)" in caplog.text
    assert SECRET not in caplog.text


def test_private_file_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AuthManager(tmp_path).login_with_api_key("k")
    assert AuthManager(tmp_path).auth() is not None
    assert not caplog.records


@given(
    content=st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_file_breaks_the_manager(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    home = tmp_path_factory.mktemp("home")
    write(home, content)
    assert AuthManager(home).auth() is None
