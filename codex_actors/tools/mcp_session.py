"""One run of an MCP server: its process, and the session with it. The only module that imports the library mcp."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codex_actors.errors import McpServerError
from codex_actors.tools.mcp_process import ChildLoop, Tail, end_group, exit_words
from codex_actors.tools.output_schema import describe_mismatch
from codex_actors.tools.tool import ToolError
from codex_actors.version import __version__

try:
    from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client
    from mcp.types import CONNECTION_CLOSED, UNSUPPORTED_PROTOCOL_VERSION, Implementation, PaginatedRequestParams
except ImportError as problem:
    raise ImportError(f"MCP servers need the library mcp: install codex-actors[mcp] ({problem})") from None

logger = logging.getLogger("codex_actors")

_PAGES = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to run. Its repr shows no arguments and no environment: they may hold secrets."""

    name: str
    command: str
    args: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None
    start_timeout_s: float


class Lost(Exception):
    """The session has ended under a call."""


class Life:
    """One run of the server's process, with its session. One task enters and leaves both."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._tail = Tail(wanted.name, wanted.env)
        self._child: asyncio.SubprocessTransport | None = None
        self._session: ClientSession | None = None
        self._is_lost = False
        self._leaving = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self.opened: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._hold())

    def has_ended(self) -> bool:
        """Whether its process has; a session that was lost counts, whatever the process does now."""
        child = self._child
        return self._is_lost or self.task.done() or (child is not None and child.get_returncode() is not None)

    def leave(self) -> None:
        """Have the task leave, also out of a start; it is bounded."""
        self._leaving.set()
        if self._limit is not None:
            with suppress(RuntimeError):  # the start is over
                self._limit.reschedule(0)

    async def epitaph(self, then: str) -> str:
        """How it ended, what that means, and what it said last."""
        how = "ended" if self._child is None else await exit_words(self._child)
        return f"{McpServerError(self._wanted.name, how)}; {then}{await self._tail.words()}"

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The wire JSON of the result."""
        assert self._session is not None
        try:
            result = await self._session.call_tool(tool, arguments)
        except MCPError as error:
            if _is_closed(error):
                self._is_lost = True
                raise Lost from None
            raise ToolError(f"the MCP server {self._wanted.name!r} refused the call: {error.message}") from None
        except ValidationError as error:
            raise ToolError(f"the MCP server {self._wanted.name!r} gave no valid result: {error}") from None
        except RuntimeError as error:  # what the library found when it checked the result
            what = str(error)
            if error.__cause__ is not None:
                what = f"does not fit the output schema that the server declares: {describe_mismatch(error.__cause__)}"
            raise ToolError(f"the result of the MCP server {self._wanted.name!r} cannot be used: {what}") from None
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    async def _hold(self) -> None:
        wanted = self._wanted
        parameters = StdioServerParameters(
            command=wanted.command, args=list(wanted.args), env=dict(wanted.env), cwd=wanted.cwd
        )
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ChildLoop)
        try:
            transport, sink = await self._tail.open(loop)
            with closing(transport), sink:
                async with stdio_client(parameters, sink) as (read, write):
                    self._child = loop.child
                    sink.close()  # so that the other end sees when the process closes its own
                    info = Implementation(name="codex_actors", version=__version__)
                    async with ClientSession(read, write, client_info=info) as session:
                        await self._live(session)
        except Exception as error:
            self._is_lost = True
            if self.opened.done():
                logger.error("leaving the MCP server %r failed: %s: %s", wanted.name, type(error).__name__, error)
            else:
                why = getattr(error, "strerror", None) or str(error)
                self._fail(f"could not be started: {wanted.command!r}: {why}")
        finally:
            if self._child is not None:
                await end_group(self._child.get_pid())
                loop.forget(self._child.get_pid())

    async def _live(self, session: ClientSession) -> None:
        try:
            async with asyncio.timeout(self._wanted.start_timeout_s) as self._limit:
                if self._leaving.is_set():
                    self._limit.reschedule(0)
                await _shake_hands(session)
                listed = await _listed(session)
        except TimeoutError:
            is_late = not self._leaving.is_set()
            limit = f"did not tell its tools within {self._wanted.start_timeout_s:g} s"
            await self._failed(limit if is_late else "was closed before it had started")
        except MCPError as error:
            assert self._child is not None
            await self._failed(await exit_words(self._child) if _is_closed(error) else f"refused to start: {error}")
        except (RuntimeError, ValidationError) as error:
            await self._failed(f"does not speak MCP as it should: {error}")
        else:
            self._session = session
            self.opened.set_result(listed)
            await self._leaving.wait()

    async def _failed(self, reason: str) -> None:
        assert self._child is not None
        await end_group(self._child.get_pid())  # nobody is to wait until it has seen that its stdin is closed
        self._fail(reason + await self._tail.words())

    def _fail(self, reason: str) -> None:
        self.opened.set_exception(McpServerError(self._wanted.name, reason))
        self.opened.exception()  # it is no news for the loop


def _is_closed(error: MCPError) -> bool:
    # A server may send the same code for reasons of its own, but hardly with the library's own words.
    return error.code == CONNECTION_CLOSED and error.message == "Connection closed"


async def _shake_hands(session: ClientSession) -> None:
    """The handshake that every server knows first: some exit when the first request is another."""
    try:
        await session.initialize()
    except MCPError as error:
        if error.code != UNSUPPORTED_PROTOCOL_VERSION:
            raise
        await session.discover()


async def _listed(session: ClientSession) -> list[dict[str, Any]]:
    """The wire JSON of each tool, by unique name."""
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor) if cursor else None)
        for each in page.tools:
            found.setdefault(each.name, each.model_dump(mode="json", by_alias=True, exclude_none=True))
        cursor = page.next_cursor
        if not cursor:
            return list(found.values())
    raise RuntimeError(f"its list of tools has more than {_PAGES} pages")
