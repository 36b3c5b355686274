"""Who pays for the model: the credentials of a codex home.

Source: `codex-rs/core/src/auth.rs`, `CodexAuth` and `AuthManager`. Refresh and login are not here yet.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CodexAuth:
    """One set of credentials. Its repr shows no secret; its pickle holds them.

    Attributes:
        mode: `apikey` has an `api_key`, `chatgpt` an `access_token` (Codex's words).
        account_id: The ChatGPT account, or None where it is not recorded.
    """

    mode: Literal["apikey", "chatgpt"]
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

    An API key wins over tokens. A file that cannot be read counts as no credentials, with a warning in the log that
    names the file and never shows what is in it.

    Runs in: `auth()` (its first call) and `reload()` read a small file on the caller's OS thread.
    """

    def __init__(self, codex_home: Path | None) -> None:
        self._path = None if codex_home is None else Path(codex_home) / "auth.json"
        self._auth: CodexAuth | None = None
        self._is_loaded = self._path is None

    @classmethod
    def from_auth_for_testing(cls, auth: CodexAuth | None) -> Self:
        """A manager that always answers `auth`."""
        manager = cls(None)
        manager._auth = auth
        return manager

    def auth(self) -> CodexAuth | None:
        """The credentials, or None where there are none."""
        if not self._is_loaded:
            self.reload()
        return self._auth

    def reload(self) -> bool:
        """Read the file again; whether the credentials changed."""
        if self._path is None:
            return False
        before, self._auth = self._auth, _read_auth(self._path)
        self._is_loaded = True
        return before != self._auth


def _read_auth(path: Path) -> CodexAuth | None:
    try:
        return _parse_auth(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read, no credentials: %s", path, error.strerror)
    except _BadAuthFile as error:
        _log.warning("%s is not an auth file, no credentials: %s", path, error)
    except (ValueError, RecursionError) as error:
        # Not the error's text: that of a decoding error quotes bytes of the file.
        _log.warning("%s is not JSON, no credentials (%s)", path, type(error).__name__)
    return None


class _BadAuthFile(Exception):
    """The text names the field, never its value."""


def _parse_auth(raw: Any) -> CodexAuth | None:
    if not isinstance(raw, dict):
        raise _BadAuthFile("expected an object")
    key = _text(raw, "OPENAI_API_KEY")
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
