"""Where a server of the Responses API is, what it is told with each request, and how patient we are with it.

Its law: nothing secret (a key, a header's or parameter's value) comes into a repr or an error's text.

Source: `codex-rs/core/src/model_provider_info.rs`, `ModelProviderInfo`. Times are in seconds here; `wire_api` is always
`responses`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, quote_plus, urlsplit

from codex_actors.config import is_seconds
from codex_actors.errors import InvalidRequest, MissingCredentials
from codex_actors.version import __version__

OPENAI_BASE_URL = "https://api.openai.com/v1"

MAX_RETRIES = 100
"""More than these are not made, whatever the settings say. Source: `MAX_STREAM_MAX_RETRIES`."""

ORIGINATOR = "codex_actors"

_AZURE_MARKS = (
    "openai.azure.",
    "cognitiveservices.azure.",
    "aoai.azure.",
    "azure-api.",
    "azurefd.",
    "windows.net/openai",
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OPENAI_KEY = re.compile(r"\bsk-[\w*.-]{4,}")
_HIDDEN = "[redacted]"


class AuthSource(Protocol):
    """An auth manager, as far as a model needs it."""

    def auth(self) -> object | None:
        """The credentials, or None where there are none."""
        ...

    def require_api_key(self) -> str:
        """The API key. Raises `MissingCredentials` where the credentials hold none."""
        ...

    def reload(self) -> bool:
        """Read them again; whether they changed."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """What one request carries, as it was when it was read. Its repr shows none of it.

    Attributes:
        headers: All that do not depend on the prompt; their names in lower case.
        token: What stands behind `Bearer `, or None.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def without_secrets(self, text: str) -> str:
        """`text` with each secret of this request, and what looks like an OpenAI key, replaced by `[redacted]`."""
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        return _OPENAI_KEY.sub(_HIDDEN, text)


@dataclass(frozen=True, slots=True, repr=False)
class ModelProviderInfo:
    """A server of the Responses API. Its repr shows no secret; its pickle holds those that were given as values.

    The key is, in this order: the value of `env_key`, `experimental_bearer_token`, the auth manager's, none.

    Attributes:
        name: The provider's name, in events.
        base_url: `<base_url>/responses` is asked, so it ends in `/v1` with most servers. None is OpenAI's, or what the
            environment variable `OPENAI_BASE_URL` says.
        env_key: The name of the environment variable that holds the key; read at each request.
        env_key_instructions: What to tell whoever did not set it.
        experimental_bearer_token: The key itself.
        query_params: Go to each URL, such as Azure's `api-version`.
        http_headers: Go to each request.
        env_http_headers: The same, each by the name of an environment variable; unset or blank ones are left out.
        request_max_retries: How often a request that brought no event is sent again; at most 100.
        stream_max_retries: How often a stream that broke is begun again; at most 100.
        stream_idle_timeout_s: How long the server may send nothing in the middle of a stream.
        connect_timeout_s: How long it may take to be reached, with the look-up of its name.
        first_byte_timeout_s: How long it may take to receive the request and to begin its answer.
        retry_base_s: The pause before the first retry; it doubles with each. What the server asks for wins.
        retry_max_s: The longest pause. A server that asks for a longer one is not asked again.

    Raises:
        InvalidRequest: it names the field that is wrong.
    """

    name: str = "openai"
    base_url: str | None = None
    env_key: str | None = None
    env_key_instructions: str | None = None
    experimental_bearer_token: str | None = None
    query_params: Mapping[str, str] = field(default_factory=dict)
    http_headers: Mapping[str, str] = field(default_factory=dict)
    env_http_headers: Mapping[str, str] = field(default_factory=dict)
    request_max_retries: int = 4
    stream_max_retries: int = 5
    stream_idle_timeout_s: float = 300.0
    connect_timeout_s: float = 30.0
    first_byte_timeout_s: float = 300.0
    retry_base_s: float = 0.2
    retry_max_s: float = 120.0

    def __post_init__(self) -> None:
        _check(self)
        for name in ("query_params", "http_headers", "env_http_headers"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        for name in ("request_max_retries", "stream_max_retries"):
            object.__setattr__(self, name, min(getattr(self, name), MAX_RETRIES))

    def __repr__(self) -> str:
        parts = [f"name={self.name!r}", f"base_url={self.base_url!r}", f"env_key={self.env_key!r}"]
        parts += [
            f"{name}=<{', '.join(sorted(getattr(self, name)))}>"
            for name in ("query_params", "http_headers", "env_http_headers")
            if getattr(self, name)
        ]
        return f"ModelProviderInfo({', '.join(parts)})"

    @property
    def is_azure(self) -> bool:
        """Whether it is Azure, which keeps responses (`store`) and wants items with their ids.

        Source: `codex-rs/codex-api/src/provider.rs`, `is_azure_responses_endpoint`.
        """
        base_url = (self.base_url or "").lower()
        return self.name.lower() == "azure" or any(mark in base_url for mark in _AZURE_MARKS)

    def access(self, path: str, auth_source: AuthSource | None = None) -> Access:
        """What a request to `<base_url>/<path>` carries. Reads the environment.

        Raises:
            MissingCredentials: `env_key` is not set or blank; or there is no key for OpenAI itself; or the auth
                manager has a ChatGPT login only.
            InvalidRequest: `OPENAI_BASE_URL` is no URL.
        """
        base_url = self._base_url()
        token = self._token(auth_source)
        if token is None and base_url == OPENAI_BASE_URL and not _has_header(self, "authorization"):
            raise MissingCredentials(
                "no API key for OpenAI: set ModelProviderInfo.env_key to the name of an environment variable that "
                "holds one, or OPENAI_API_KEY in the auth.json of the codex home"
            )
        headers = {"user-agent": f"{ORIGINATOR}/{__version__}", "originator": ORIGINATOR}
        headers |= {name.lower(): value for name, value in self.http_headers.items()}
        hidden = [*self.query_params.values(), *self.http_headers.values()]
        for header, variable in self.env_http_headers.items():
            value = _usable(os.environ.get(variable), variable)
            if value is not None:
                headers[header.lower()] = value
                hidden.append(value)
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        # Short values (`2`, `true`) are no secrets, and would tear holes into every text.
        secrets = [value for value in hidden if len(value) >= 8] + ([token] if token else [])
        secrets += [value.split(" ", 1)[1] for value in hidden if " " in value and len(value) >= 16]
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), quote_plus(secret))}
        longest_first = tuple(sorted(forms, key=len, reverse=True))
        return Access(f"{base_url}/{path}", headers, self.query_params, token, longest_first)

    def _base_url(self) -> str:
        if self.base_url is not None:
            return self.base_url.rstrip("/")
        value = os.environ.get("OPENAI_BASE_URL", "").strip()
        if not value:
            return OPENAI_BASE_URL
        _check_url(value, "the environment variable OPENAI_BASE_URL")
        return value.rstrip("/")

    def _token(self, auth_source: AuthSource | None) -> str | None:
        if self.env_key is not None:
            token = _usable(os.environ.get(self.env_key), self.env_key)
            if token is None:
                hint = f". {self.env_key_instructions}" if self.env_key_instructions else ""
                raise MissingCredentials(f"the environment variable {self.env_key} is not set or blank{hint}")
            return token
        if self.experimental_bearer_token is not None:
            return self.experimental_bearer_token.strip()
        if auth_source is None or auth_source.auth() is None:
            return None
        return _usable(auth_source.require_api_key(), "the stored API key")


def _usable(value: str | None, what: str) -> str | None:
    """`value` without blanks around it, or None where nothing is left."""
    value = (value or "").strip()
    if _CONTROL.search(value):
        raise MissingCredentials(f"{what} holds a line break or another control character, which no header may have")
    return value or None


def _has_header(info: ModelProviderInfo, wanted: str) -> bool:
    return any(name.lower() == wanted for name in (*info.http_headers, *info.env_http_headers))


def _check(info: ModelProviderInfo) -> None:
    if not isinstance(info.name, str) or not info.name.strip():
        raise _wrong("name", "expected a name that is not blank")
    if info.base_url is not None:
        _check_url(info.base_url, "ModelProviderInfo.base_url")
    # Not the value: whoever confuses the two fields has put a key here.
    if info.env_key is not None and not _is_match(_VARIABLE, info.env_key):
        raise _wrong("env_key", "expected the name of an environment variable, not a key")
    if info.env_key_instructions is not None and not isinstance(info.env_key_instructions, str):
        raise _wrong("env_key_instructions", "expected text or None")
    token = info.experimental_bearer_token
    if token is not None and (not isinstance(token, str) or not token.strip() or _CONTROL.search(token)):
        raise _wrong("experimental_bearer_token", "expected a key of one line, or None")
    for name, keys in (("query_params", None), ("http_headers", _HEADER_NAME), ("env_http_headers", _HEADER_NAME)):
        _check_mapping(name, getattr(info, name), keys)
    for variable in info.env_http_headers.values():
        if not _is_match(_VARIABLE, variable):
            raise _wrong("env_http_headers", "each value is the name of an environment variable")
    for name in ("request_max_retries", "stream_max_retries"):
        value = getattr(info, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _wrong(name, f"{value!r} is not a whole number from 0")
    for name in _TIMES:
        value = getattr(info, name)
        if not is_seconds(value) or math.isinf(value):
            raise _wrong(name, f"{value!r} is not a number of seconds above 0")


_TIMES = ("stream_idle_timeout_s", "connect_timeout_s", "first_byte_timeout_s", "retry_base_s", "retry_max_s")


def _check_mapping(name: str, mapping: Any, keys: re.Pattern[str] | None) -> None:
    if not isinstance(mapping, Mapping):
        raise _wrong(name, f"expected a mapping of texts, not a value of type {type(mapping).__name__}")
    for key, value in mapping.items():
        if not isinstance(key, str) or not key or (keys is not None and not keys.fullmatch(key)):
            raise _wrong(name, f"{key!r} is no name")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise _wrong(name, f"the value of {key!r} is not text of one line")


def _check_url(value: Any, what: str) -> None:
    """Refuse what is no base URL. The text never shows the URL: it may hold a password."""
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or re.search(r"[\s\x00-\x1f]", value):
        raise InvalidRequest(f"{what}: expected a URL such as https://api.openai.com/v1 (http or https, with a host)")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest(f"{what}: holds a user or password; use http_headers or env_http_headers instead")
    if parts.query or parts.fragment:
        raise InvalidRequest(f"{what}: holds a query or fragment; use query_params instead")


def _is_match(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"ModelProviderInfo.{name}: {why}")
