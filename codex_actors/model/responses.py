"""A model behind OpenAI's Responses API, over HTTP: OpenAI, Azure, vLLM, Ollama, llama.cpp and what else speaks it.

Source: `codex-rs/core/src/client.rs` and `codex-rs/codex-client`; the retries are those of `codex.rs`, `run_sampling_request`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic_core import from_json

from codex_actors.errors import (
    CodexError,
    ConnectionFailed,
    InternalServerError,
    ModelError,
    RetryLimit,
    ServerOverloaded,
    StreamError,
    UnexpectedStatus,
    UnsupportedOperation,
)
from codex_actors.model.provider import Completed, FetchedModels, ItemDone, ModelEvent, Prompt, Retrying
from codex_actors.model.provider_info import Access, AuthSource, ModelProviderInfo
from codex_actors.model.wire_errors import request_id, retry_after_s, status_error
from codex_actors.model.wire_events import EventReader
from codex_actors.model.wire_models import read_presets
from codex_actors.model.wire_request import EncodedHistories, prompt_headers, request_body
from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.items import CustomToolCall, FunctionCall, LocalShellCall, ResponseItem

try:
    import aiohttp
except ImportError as error:
    raise ImportError("codex_actors.model.responses needs aiohttp: pip install 'codex-actors[http]'") from error

_CALLS = (FunctionCall, CustomToolCall, LocalShellCall)

_LINGER_S = 1.0
"""How long a connection may take to end its answer behind `response.completed`, and then be used again."""

_MAX_BODY_BYTES = 16 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0
_BIG_BODY_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
_RETRIED_STATUSES = frozenset({408, 409, 425})
"""Of those below 500. Codex begins the stream again after any status; no other 4xx answers differently the next time."""


class ResponsesModel:
    """Asks a server of the Responses API; each request carries the whole history.

    What failed is tried again, as `info` says: a request that a broken connection or a 5xx answered, in silence; a
    stream that broke, a 429 and the like behind a `Retrying`. The new request carries the items that were whole. Once
    one of those is a call, the stream ends with `Completed(None)` instead: the turn runs the call, and its next request
    goes on from there.

    It pickles while `auth_manager` does; the copy is not open.

    Args:
        info: Where the server is, and the key.
        auth_manager: Has the key where `info` names none. Asked at each request; after a 401 it reads its file again,
            once.
        presets: What to offer to users; empty offers `info.name`.
        rng: Spreads the pauses between retries.

    Attributes:
        name: That of `info`.
    """

    def __init__(
        self,
        info: ModelProviderInfo | None = None,
        auth_manager: AuthSource | None = None,
        *,
        presets: Iterable[ModelPreset] = (),
        rng: random.Random | None = None,
    ) -> None:
        self.info = ModelProviderInfo() if info is None else info
        self.name = self.info.name
        self.presets = tuple(presets)
        self._auth_manager = auth_manager
        self._rng = random.Random() if rng is None else rng
        self._opened: dict[asyncio.AbstractEventLoop, _Connections] = {}

    def __repr__(self) -> str:
        return f"ResponsesModel({self.info!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Connections for the running loop. Several may be open; those of one loop share them until the last leaves."""
        loop = asyncio.get_running_loop()
        connections = self._opened.get(loop)
        if connections is None:
            connections = self._opened[loop] = _Connections(self.info)
        connections.users += 1
        try:
            yield self
        finally:
            connections.users -= 1
            if not connections.users:
                del self._opened[loop]
                await connections.close()

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        """The events of one answer.

        Raises:
            ModelError: the server cannot be reached, refuses, or failed until the retries were spent.
            UnsupportedOperation: the model is not open on this loop.
        """
        connections = self._connections()
        headers = {"accept": "text/event-stream", **prompt_headers(prompt)}
        done: list[ResponseItem] = []
        retries = 0
        while True:
            body = request_body(prompt, done, is_stored=self.info.is_azure, histories=connections.histories)
            response: aiohttp.ClientResponse | None = None
            access: Access | None = None
            chunks: _Chunks | None = None
            try:
                response, access = await self._ask(connections, "POST", "responses", headers, body)
                chunks = _Chunks(response, self.info.stream_idle_timeout_s)
                reader = EventReader()
                while chunk := await chunks.read():
                    for event in reader.read(chunk):
                        if type(event) is ItemDone:
                            done.append(event.item)
                        elif type(event) is Completed:
                            connections.let_end(response)
                            response = None
                            yield event
                            return
                        yield event
                raise _ended_early(response)
            except ModelError as error:
                failed = error if access is None else _without_secrets(error, access)
            finally:
                if chunks is not None:
                    chunks.end()
                if response is not None:
                    response.close()
            retries += 1
            is_call_waiting = any(isinstance(item, _CALLS) for item in done)
            most = self.info.stream_max_retries
            if not _is_retried(failed) or (retries > most and not is_call_waiting):
                raise failed
            pause_s = self._pause_s(retries, getattr(failed, "delay_s", None), failed)
            if retries <= most:
                yield Retrying(f"Reconnecting... {retries}/{most}")
            await asyncio.sleep(pause_s)
            if is_call_waiting:
                yield Completed(None)
                return

    async def fetch_models(self, etag: str | None = None) -> FetchedModels | None:
        """What the server offers, or None where its list is still the one of `etag`.

        Raises:
            ModelError: as in `stream`, without the retries of a stream.
            UnsupportedOperation: the model is not open on this loop.
        """
        headers = {"accept": "application/json"}
        if etag is not None:
            headers["if-none-match"] = etag
        response, access = await self._ask(self._connections(), "GET", "models", headers, None)
        chunks = _Chunks(response, self.info.stream_idle_timeout_s)
        try:
            if response.status == 304:
                return None
            body = b""
            while chunk := await chunks.read():
                body += chunk
                if len(body) > _MAX_BODY_BYTES:
                    raise UnexpectedStatus(response.status, f"a list of models of more than {_MAX_BODY_BYTES} bytes")
            return FetchedModels(read_presets(from_json(body)), response.headers.get("etag"))
        except ValueError:
            text = access.without_secrets(body[:200].decode("utf-8", "replace"))
            raise UnexpectedStatus(response.status, f"no list of models: {text}") from None
        finally:
            chunks.end()
            response.close()

    def _connections(self) -> _Connections:
        connections = self._opened.get(asyncio.get_running_loop())
        if connections is None:
            raise UnsupportedOperation(
                "the model is not open on this loop; a ThreadManager opens it, else use `async with model.open()`"
            )
        return connections

    async def _ask(
        self, connections: _Connections, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[aiohttp.ClientResponse, Access]:
        """An answer that is a success, or 304, and what its request carried. Sends it again as often as `info` says."""
        retries, is_reloaded = 0, False
        while True:
            access = self.info.access(path, self._auth_manager)
            status, asked_s = 0, None
            try:
                response = await connections.request(method, access, headers, body)
                status = response.status
                if 200 <= status < 300 or status == 304:
                    return response, access
                asked_s = retry_after_s(response.headers)
                failed: ModelError = await _refusal(response, access)
            except ConnectionFailed as error:
                failed = error
            if status == 401 and not is_reloaded and self._auth_manager is not None:
                is_reloaded = True
                self._auth_manager.reload()
                if self.info.access(path, self._auth_manager).token != access.token:
                    continue
            is_broken = isinstance(failed, ConnectionFailed | InternalServerError | ServerOverloaded)
            is_broken = is_broken or (isinstance(failed, UnexpectedStatus) and status >= 500)
            if not is_broken or retries >= self.info.request_max_retries:
                raise failed
            retries += 1
            if asked_s is not None:  # asked for too long a pause, it is not asked again by the stream either
                failed = _without_secrets(RetryLimit(status, request_id(response.headers), asked_s), access)
            await asyncio.sleep(self._pause_s(retries, asked_s, failed))

    def _pause_s(self, retries: int, asked_s: float | None, failed: CodexError) -> float:
        """The pause before retry number `retries`; raises `failed` where the server asks for too long a one."""
        most_s = self.info.retry_max_s
        if asked_s is not None:
            if asked_s > most_s:
                raise failed
            return asked_s
        return min(most_s, self.info.retry_base_s * 2.0 ** (retries - 1) * self._rng.uniform(0.9, 1.1))


class _Chunks:
    """The body of an answer, as it comes; one timer for all of it: one for each read costs as much as the read."""

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._response, self._idle_s = response, idle_s
        self._loop = asyncio.get_running_loop()
        self._waits_since_s: float | None = None
        self._is_idle = False
        self._timer = self._loop.call_later(idle_s, self._look)

    async def read(self) -> bytes:
        """What has arrived, at least a byte; b"" at the end. `StreamError`: nothing came, or the connection broke."""
        content = self._response.content
        try:
            if chunk := content.read_nowait():
                return chunk
            self._waits_since_s = self._loop.time()
            chunk = await content.readany()
        except (aiohttp.ClientError, OSError):
            if not self._is_idle:
                raise StreamError("the connection broke in the middle of the answer") from None
            chunk = b""
        finally:
            self._waits_since_s = None
        if self._is_idle:
            raise StreamError("idle timeout waiting for SSE")
        return chunk

    def _look(self) -> None:
        now_s = self._loop.time()
        due_s = (now_s if self._waits_since_s is None else self._waits_since_s) + self._idle_s
        if due_s > now_s:
            self._timer = self._loop.call_at(due_s, self._look)
        else:
            self._is_idle = True
            self._response.close()  # which ends the read

    def end(self) -> None:
        """Nothing is read any more."""
        self._timer.cancel()


class _Connections:
    """The connections of one loop; `users` counts who has them open."""

    def __init__(self, info: ModelProviderInfo) -> None:
        self.users = 0
        self.histories = EncodedHistories()
        self._info = info
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BYTES,
        )
        # Ours, and not aiohttp's `trust_env`: that reads ~/.netrc at each request, and sends what it finds there.
        self._proxies = getproxies()
        self._ending: dict[aiohttp.ClientResponse, asyncio.TimerHandle] = {}

    async def request(
        self, method: str, access: Access, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        """The answer, of any status, as soon as its headers are there.

        Raises:
            ConnectionFailed: it did not come.
        """
        info, parts = self._info, urlsplit(access.url)
        host = parts.netloc
        sent: dict[str, str] = {**access.headers, **headers, "accept-encoding": "identity"}
        data: Any = body
        if body is not None:
            sent["content-type"] = "application/json"
            if len(body) > _BIG_BODY_BYTES:
                data = io.BytesIO(body)  # written piece by piece: in one piece it would hold the loop up
        try:
            async with asyncio.timeout(info.connect_timeout_s + info.first_byte_timeout_s):
                return await self._session.request(
                    method,
                    access.url,
                    params=access.query or None,
                    headers=sent,
                    data=data,
                    allow_redirects=False,  # the key would go wherever a server says
                    proxy=self._proxies[parts.scheme] if self._is_behind_proxy(parts.scheme, host) else None,
                    timeout=aiohttp.ClientTimeout(total=None, connect=info.connect_timeout_s),
                )
        except aiohttp.ServerTimeoutError:
            reason = f"not reached within {info.connect_timeout_s:g} s"
        except TimeoutError:
            reason = f"no answer within {info.first_byte_timeout_s:g} s"
        except aiohttp.ClientConnectorCertificateError as error:
            reason = str(error.certificate_error)
        except ValueError:  # not its text, which may quote a header
            reason = "the address, the proxy, or a header is not valid"
        except (aiohttp.ClientError, OSError) as error:
            reason = str(getattr(error, "strerror", None) or type(error).__name__)
        raise ConnectionFailed(host, reason) from None

    def _is_behind_proxy(self, scheme: str, host: str) -> bool:
        return scheme in self._proxies and not proxy_bypass(host)

    def let_end(self, response: aiohttp.ClientResponse) -> None:
        """Let go of an answer that is whole: its connection is used again if the server ends it soon, else closed."""
        if response.content.is_eof():
            return
        loop = asyncio.get_running_loop()
        self._ending[response] = loop.call_later(_LINGER_S, self._forget, response)
        response.content.on_eof(partial(self._forget, response))

    def _forget(self, response: aiohttp.ClientResponse) -> None:
        timer = self._ending.pop(response, None)
        if timer is not None:
            timer.cancel()
        if not response.content.is_eof():
            response.close()

    async def close(self) -> None:
        """Close all of them."""
        for response in list(self._ending):
            self._forget(response)
        await self._session.close()


async def _refusal(response: aiohttp.ClientResponse, access: Access) -> ModelError:
    """The error of an answer that is no success; reads some of its body, within a time, and lets the connection go."""
    body = b""
    try:
        async with asyncio.timeout(_ERROR_BODY_S):
            while len(body) < _MAX_ERROR_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # what came of it has to do: the status counts
    finally:
        response.close()
    text = body[:_MAX_ERROR_BYTES].decode("utf-8", "replace")
    return _without_secrets(status_error(response.status, response.headers, text), access)


def _without_secrets(error: ModelError, access: Access) -> ModelError:
    """The same error; its fields are its `args`."""
    return type(error)(*(access.without_secrets(arg) if isinstance(arg, str) else arg for arg in error.args))


def _ended_early(response: aiohttp.ClientResponse) -> StreamError:
    kind = response.content_type
    if kind in ("text/event-stream", "application/octet-stream"):  # the latter is also what no content type is
        return StreamError("stream closed before response.completed")
    return StreamError(f"stream closed before response.completed: the server sent {kind}, not text/event-stream")


def _is_retried(error: ModelError) -> bool:
    if isinstance(error, UnexpectedStatus):
        return error.status >= 500 or error.status in _RETRIED_STATUSES
    return error.retryable or isinstance(error, RetryLimit)
