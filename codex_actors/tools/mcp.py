"""The tools of MCP servers as tools of a thread: `McpServer` runs one as a child process and talks to it over its stdio.

A session must be entered and left in one task on one loop. So each server has a loop in an OS thread of its own, and calls
come over to it from any loop: one server serves threads of several managers, sync or async.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from codex_actors.config import is_seconds
from codex_actors.errors import InvalidRequest, McpServerError, UnsupportedOperation
from codex_actors.runtime.reply import in_os_thread
from codex_actors.tools.approval import Act, approve
from codex_actors.tools.mcp_process import ChildLoop, Children
from codex_actors.tools.mcp_session import Life, Lost, Wanted
from codex_actors.tools.mcp_words import read_arguments, read_result, tool_names
from codex_actors.tools.tool import ToolContext, ToolError

logger = logging.getLogger("codex_actors")

RESTARTS = 1
"""How often a server that died is started again, in all its life."""

CLOSE_S = 15.0
"""A close waits no longer; what the MCP library and we give a server to end by itself is less in sum."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


class McpServer:
    """An MCP server as a child process, for the length of a `with` or `async with`; `tools` is for `Config.tools`.

    Which tools there are is settled at the start: what the server says of changes later is not followed. A call that finds
    the server dead says so to the model; the next one starts it again, `RESTARTS` times in all. A server that is neither
    closed nor held by anybody, be it through its tools, is closed in the background, and at the process's exit it is killed.

    Args:
        command: The program; args, what it is called with.
        name: Stands in the names of its tools; 1 to 32 of A-Z a-z 0-9 _ -.
        env: Variables beside the few it inherits (`HOME`, `LOGNAME`, `PATH`, `SHELL`, `TERM`, `USER`).
        cwd: Its working folder; None is the process's.
        start_timeout_s: It has to have told its tools by then, at each start.
        timeout_s: The deadline of one call; None takes `ManagerConfig.tool_timeout_s`.

    Raises:
        InvalidRequest: an argument is wrong.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_timeout_s: float = 10.0,
        timeout_s: float | None = None,
    ) -> None:
        _check_texts(command, args, env)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequest(f"name: {name!r} is not 1 to 32 of A-Z a-z 0-9 _ -")
        if cwd is not None and not (isinstance(cwd, Path) and cwd.is_dir()):
            raise InvalidRequest(f"cwd: {cwd!r} is not the pathlib.Path of an existing folder")
        for what, value in (("start_timeout_s", start_timeout_s), ("timeout_s", timeout_s)):
            if not is_seconds(value) and not (what == "timeout_s" and value is None):
                raise InvalidRequest(f"{what}: {value!r} is not a number of seconds above 0")
        self.name: Final = name
        self.timeout_s: Final = timeout_s
        self._tools: tuple[McpTool, ...] | None = None
        self._host = _Host(Wanted(name, command, tuple(args), dict(env or {}), cwd, start_timeout_s))
        weakref.finalize(self, self._host.begin_close).atexit = False

    def __repr__(self) -> str:
        return f"<McpServer {self.name}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} is a child of this process: neither it nor its tools can be pickled")

    @property
    def tools(self) -> tuple[McpTool, ...]:
        """Its tools, in its own order; also after a close, when each call says that it is closed.

        Raises:
            UnsupportedOperation: it was never started.
        """
        if self._tools is None:
            raise UnsupportedOperation(f"{self!r} has no tools before it is started; enter it with `with`")
        return self._tools

    def start(self) -> Self:
        """Start it and learn its tools. Blocks until then, so on a loop use `async with`.

        Raises:
            McpServerError: it did not start; nothing of it is left.
            UnsupportedOperation: it was started already, also if it is closed; make another.
        """
        try:
            self._host.start()
            listed = self._host.started.result(self._host.wanted.start_timeout_s + CLOSE_S)
        except UnsupportedOperation:
            raise
        except BaseException:
            self.close()
            raise
        names = tool_names(self.name, [each["name"] for each in listed])
        self._tools = tuple(McpTool(self, *each) for each in zip(names, listed, strict=True))
        return self

    def close(self) -> None:
        """End its process with all that it started; calls that run fail. Blocks until it has ended, at most `CLOSE_S`.

        It is asked first (its stdin is closed), then told (SIGTERM), then killed. Again, it does nothing.

        Raises:
            UnsupportedOperation: called in a forked child process.
        """
        self._host.check_process()
        self._host.begin_close()
        self._host.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await in_os_thread(self.start)
        except BaseException:  # whoever waits for the start may give up, and the start goes on without it
            self._host.begin_close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._host.begin_close()
        await in_os_thread(self.close)


class McpTool:
    """A tool of a server, for `Config.tools`; made by `McpServer`. It holds its server.

    Whether it is read-only is what the server says (`readOnlyHint`). Any other asks for approval where the thread's
    `approval_policy` is `untrusted`.
    """

    is_async = True

    def __init__(self, server: McpServer, name: str, listed: Mapping[str, Any]) -> None:
        self.name: str = name
        self.description: str = listed.get("description") or listed.get("title") or ""
        self.parameters: Mapping[str, Any] = listed["inputSchema"]
        self.is_read_only: bool = (listed.get("annotations") or {}).get("readOnlyHint") is True
        self.timeout_s: float | None = server.timeout_s
        self._server = server
        self._own_name: str = listed["name"]

    def __repr__(self) -> str:
        return f"<McpTool {self.name}>"

    async def call(self, arguments: str, context: ToolContext | None) -> str:
        """Call it, for the model's `arguments`; cancelled, it asks the server to cancel the request.

        Runs in: any loop.

        Raises:
            ToolArgumentsError: the arguments are no JSON object.
            ToolError: the server says that the call failed, does not keep to what it declared, or has died.
        """
        given = read_arguments(self.name, arguments)
        if context is not None and not self.is_read_only:
            await approve(context, Act((self.name, arguments or "{}"), name=f"the call of {self.name}"))
        return read_result(await self._server._host.called(self._own_name, given))


class _Host:
    """The OS thread of a server, with its loop. It must not hold the `McpServer`, whose end it would hold up."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.started: Future[list[dict[str, Any]]] = Future()
        self._owner = os.getpid()
        self._children = Children()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._is_closing = False
        self._lives: list[Life] = []
        self._restarts_left = RESTARTS

    # --- from any OS thread ----------------------------------------------------------------------------------------

    def check_process(self) -> None:
        if os.getpid() != self._owner:
            raise UnsupportedOperation(f"the MCP server {self.wanted.name!r} belongs to the process that made it")

    def start(self) -> None:
        self.check_process()
        if self._thread is not None or self._is_closing:
            raise UnsupportedOperation(
                f"the MCP server {self.wanted.name!r} was started already; make another McpServer"
            )
        weakref.finalize(self, self._children.kill)  # for the exit: when this is collected, all have ended
        self._thread = threading.Thread(target=self._run, name="codex_actors-mcp", daemon=True)
        self._thread.start()

    def begin_close(self) -> None:
        """Waits for nothing: it is called by a finalizer, too."""
        if os.getpid() != self._owner:
            return
        self._is_closing = True
        if self._loop is not None and self._closing is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._closing.set)

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                logger.warning("the MCP server %r has not ended within %g s", self.wanted.name, CLOSE_S)

    async def called(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The wire JSON of the call's result. Runs in: the caller's loop."""
        self.check_process()
        if self._loop is None or self._is_closing:
            raise self._closed()
        # A call that slips in just when the loop ends is not answered; then the tool's own deadline ends it.
        try:
            return await asyncio.wrap_future(_run_on(self._loop, self._call(tool, arguments)))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._closed() from None

    def _closed(self) -> ToolError:
        return ToolError(f"the MCP server {self.wanted.name!r} is closed; its tools cannot be used any more")

    # --- in its own OS thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=partial(ChildLoop, self._children)) as runner:
                runner.run(self._main())
        except OSError as error:  # there is no file descriptor left for a loop
            self.started.set_exception(McpServerError(self.wanted.name, f"could not be started: {error}"))

    async def _main(self) -> None:
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._is_closing:  # before the loop was there to be told
            self._closing.set()
        life = self._begin_life()
        stop = asyncio.ensure_future(self._closing.wait())
        news: set[asyncio.Future[Any]] = {life.opened, stop}
        await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
        if life.opened.done() and not life.opened.exception():
            self.started.set_result(life.opened.result())
            await stop
        stop.cancel()
        for each in self._lives:
            each.leave()
        await asyncio.wait({each.task for each in self._lives})
        if not self.started.done():
            too_early = McpServerError(self.wanted.name, "was closed before it had started")
            self.started.set_exception(life.opened.exception() or too_early)

    def _begin_life(self) -> Life:
        self._lives = [each for each in self._lives if not each.task.done()]
        life = Life(self.wanted)
        self._lives.append(life)
        return life

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        life = self._lives[-1]
        if life.has_ended():
            if not self._restarts_left:
                raise ToolError(await life.epitaph("it was started again before, and stays stopped: go on without it"))
            self._restarts_left -= 1
            logger.warning("%s", await life.epitaph("it is started again"))
            life.leave()
            life = self._begin_life()
        try:
            await asyncio.shield(life.opened)
            return await life.call(tool, arguments)
        except McpServerError as error:
            raise ToolError(f"{error}; it was started again before, and stays stopped: go on without it") from None
        except Lost:
            if self._is_closing:
                raise self._closed() from None
            after = "the next call starts it again" if self._restarts_left else "it stays stopped: go on without it"
            raise ToolError(await life.epitaph(f"this call has no result; {after}")) from None


def _check_texts(command: str, args: Sequence[str], env: Mapping[str, str] | None) -> None:
    if not isinstance(command, str) or not command:
        raise InvalidRequest(f"command: {command!r} is not the name of a program")
    if isinstance(args, str) or not all(isinstance(each, str) for each in args):
        raise InvalidRequest("args: not a sequence of texts")
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidRequest(f"env: {key!r} or its value is not text")
    for what, each in (
        ("command", command),
        *(("args", each) for each in args),
        *(("env", v) for v in (env or {}).values()),
    ):
        if "\0" in each:
            raise InvalidRequest(f"{what}: holds a null character")


def _run_on(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, dict[str, Any]]) -> Future[dict[str, Any]]:
    try:
        return asyncio.run_coroutine_threadsafe(call, loop)
    except RuntimeError:  # the loop has just been closed
        call.close()
        ended: Future[dict[str, Any]] = Future()
        ended.cancel()
        return ended
