"""Who pays for the model: the credentials of a codex home.

Source: `codex-rs/core/src/auth.rs`, `CodexAuth` and `AuthManager`; `auth/storage.rs`. ChatGPT tokens are kept, and not
used: their login and refresh belong to Codex.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from codex_actors.errors import InvalidRequest, MissingCredentials, UnsupportedOperation
from codex_actors.services.atomic import write_atomically

_log = logging.getLogger(__name__)

AuthMode: TypeAlias = Literal["apikey", "chatgpt"]
"""What kind of credentials they are, in Codex's words."""

API_KEY_ENV = "CODEX_API_KEY"
"""The variable that wins over the file, for managers that were told to look at it."""

NO_API_KEY = (
    "there is no API key; set OPENAI_API_KEY and name it (`ModelProviderInfo.env_key`), or log in with the key "
    "(`AuthManager.login_with_api_key`)"
)
"""What whoever needs a key says where there are no credentials."""

CHATGPT_TOKENS_REFUSED = (
    "the stored credentials are ChatGPT tokens, which only the program that obtained them may use; "
    "set OPENAI_API_KEY and name it (`ModelProviderInfo.env_key`), or log in with an API key "
    "(`AuthManager.login_with_api_key`), which keeps the tokens"
)
"""What whoever needs a key says where there are only ChatGPT tokens."""

_KEY_FIELD = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class CodexAuth:
    """One set of credentials. Its repr shows no secret; its pickle holds them.

    Attributes:
        mode: `apikey` has an `api_key`, `chatgpt` an `access_token` (Codex's words).
        account_id: The ChatGPT account, or None where it is not recorded.
    """

    mode: AuthMode
    api_key: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    account_id: str | None = None

    @classmethod
    def from_api_key(cls, key: str) -> Self:
        """The credentials of an API key."""
        return cls("apikey", api_key=key)

    @classmethod
    def create_dummy(cls) -> Self:
        """Credentials that no server accepts. Source: `create_dummy_chatgpt_auth_for_testing`."""
        return cls("chatgpt", access_token="Access Token", account_id="account_id")

    @property
    def token(self) -> str | None:
        """What goes into the `Authorization` header of a request, behind `Bearer `."""
        return self.api_key if self.mode == "apikey" else self.access_token


class AuthManager:
    """Reads `<codex_home>/auth.json` at first use; what it read stays until `reload()`. None as home means no file.

    In this order: the variable `CODEX_API_KEY` where `enable_codex_api_key_env` is set, the file's API key, the file's
    ChatGPT tokens. A file that cannot be read counts as no credentials, with a warning in the log that names the file and
    never shows what is in it; so does a warning about a file with credentials that others than its owner may read.

    Runs in: `auth()` and what builds on it (at first), `reload()`, `login_with_api_key()` and `logout()` read and write a
    small file on the caller's OS thread.
    """

    def __init__(self, codex_home: Path | None, *, enable_codex_api_key_env: bool = False) -> None:
        self._path = None if codex_home is None else Path(codex_home) / "auth.json"
        self._is_env_enabled = enable_codex_api_key_env
        self._auth: CodexAuth | None = None
        self._is_loaded = self._is_fixed = False

    @classmethod
    def from_auth_for_testing(cls, auth: CodexAuth | None) -> Self:
        """A manager that always answers `auth`."""
        manager = cls(None)
        manager._auth = auth
        manager._is_loaded = manager._is_fixed = True
        return manager

    def auth(self) -> CodexAuth | None:
        """The credentials, or None where there are none."""
        if not self._is_loaded:
            self.reload()
        return self._auth

    def auth_mode(self) -> AuthMode | None:
        """The kind of the credentials, or None where there are none."""
        auth = self.auth()
        return None if auth is None else auth.mode

    def require_api_key(self) -> str:
        """The key to send.

        Raises:
            MissingCredentials: there is none, or only ChatGPT tokens; the text says which, and what to do.
        """
        auth = self.auth()
        if auth is not None and auth.mode == "chatgpt":
            raise MissingCredentials(CHATGPT_TOKENS_REFUSED)
        if auth is None or not auth.api_key:
            raise MissingCredentials(NO_API_KEY)
        return auth.api_key

    def reload(self) -> bool:
        """Look again; whether the credentials changed."""
        if self._is_fixed:
            return False
        before, self._auth = self._auth, self._look()
        self._is_loaded = True
        return before != self._auth

    def login_with_api_key(self, key: str) -> None:
        """Store `key` as the file's API key, and read the file again. All else in the file stays, ChatGPT tokens too.

        Source: `login_with_api_key`; Codex's drops the tokens.

        Raises:
            InvalidRequest: no key can look like that.
            UnsupportedOperation: there is no home, or the file is damaged or cannot be written; it is as it was.
        """
        if not isinstance(key, str) or not key.strip():
            raise InvalidRequest("key: an API key is text that is not blank")
        key = key.strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise InvalidRequest("key: an API key has no blanks, line ends or letters beyond ASCII inside")
        path = self._file_to_change("log in")
        _write(path, {**(_stored(path) or {}), _KEY_FIELD: key})
        self.reload()

    def logout(self) -> bool:
        """Remove the file's API key, and read the file again; whether there was one.

        What else the file holds stays, ChatGPT tokens above all: the file goes only when nothing is left in it. A key from
        the environment stays in use. Source: `logout`; Codex's removes the file with all that is in it.

        Raises:
            UnsupportedOperation: there is no home, or the file is damaged or cannot be written; it is as it was.
        """
        path = self._file_to_change("log out")
        stored = _stored(path)
        if stored is None or stored.get(_KEY_FIELD) is None:
            return False
        if any(value is not None for name, value in stored.items() if name != _KEY_FIELD):
            _write(path, {**stored, _KEY_FIELD: None})
        else:
            _remove(path)
        self.reload()
        return True

    def _look(self) -> CodexAuth | None:
        key = os.environ.get(API_KEY_ENV, "").strip() if self._is_env_enabled else ""
        if key:
            return CodexAuth.from_api_key(key)
        return None if self._path is None else _read_auth(self._path)

    def _file_to_change(self, what: str) -> Path:
        if self._is_fixed:
            raise UnsupportedOperation(f"{what}: these credentials are fixed, for tests")
        if self._path is None:
            raise UnsupportedOperation(
                f"{what}: without a codex_home there is no auth.json; give one, or set a variable"
            )
        return self._path


def _read_auth(path: Path) -> CodexAuth | None:
    try:
        content, mode = _read(path)
        auth = _parse_auth(json.loads(content))
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read, no credentials: %s", path, error.strerror)
    except _BadAuthFile as error:
        _log.warning("%s is not an auth file, no credentials: %s", path, error)
    except (ValueError, RecursionError) as error:
        # Not the error's text: that of a decoding error quotes bytes of the file.
        _log.warning("%s is not JSON, no credentials (%s)", path, type(error).__name__)
    else:
        if auth is not None and mode & 0o077:
            _log.warning("%s can be read by others than its owner (mode %03o): chmod 600", path, mode & 0o777)
        return auth
    return None


def _read(path: Path) -> tuple[bytes, int]:
    """The content and the mode of one and the same file: another one may take its place at any moment."""
    with path.open("rb") as file:
        return file.read(), os.fstat(file.fileno()).st_mode


def _stored(path: Path) -> dict[str, Any] | None:
    """The file's fields, to be changed; None where there is no file.

    Raises:
        UnsupportedOperation: they cannot be read, so a new file would lose what is in this one.
    """
    try:
        raw = json.loads(_read(path)[0])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsupportedOperation(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        # Outside of the handler: the text of a decoding error, its context, quotes the file.
        raise UnsupportedOperation(f"{path} is not JSON with fields; it is left as it was; mend it or move it away")
    return raw


def _write(path: Path, fields: dict[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(fields, indent=2).encode())
    except OSError as error:
        raise UnsupportedOperation(f"{path} cannot be written: {error.strerror}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UnsupportedOperation(f"{path} cannot be removed: {error.strerror}") from error


class _BadAuthFile(Exception):
    """The text names the field, never its value."""


def _parse_auth(raw: Any) -> CodexAuth | None:
    if not isinstance(raw, dict):
        raise _BadAuthFile("expected an object")
    key = _text(raw, _KEY_FIELD)
    if key:
        return CodexAuth.from_api_key(key)
    tokens = raw.get("tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, dict):
        raise _BadAuthFile("tokens is not an object")
    access_token = _text(tokens, "access_token")
    if not access_token:
        raise _BadAuthFile("tokens has no access_token")
    return CodexAuth("chatgpt", access_token=access_token, account_id=_text(tokens, "account_id"))


def _text(raw: dict[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise _BadAuthFile(f"{name} is not a string")
    return value
