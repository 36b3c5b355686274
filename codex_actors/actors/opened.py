"""An entered manager's running parts, on the host's loop or on one of its own, and how they end."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codex_actors.actors import messages
from codex_actors.actors.closing import CloseReport, close_down
from codex_actors.actors.shared import Shared
from codex_actors.actors.supervisor import Registry, Services, SupervisorActor
from codex_actors.config import ManagerConfig
from codex_actors.model.provider import ModelProvider
from codex_actors.runtime.actor import retire
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply

logger = logging.getLogger("codex_actors")

REPORT_MARGIN_S = 5.0
"""What ending thousands of threads takes beside the waits, each of which has `close_timeout_s` as its end."""


class Opened:
    """Everything but the supervisor, which is the manager's alone. Made in the loop's OS thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        codex_home: Path | None,
        model: ModelProvider,
        config: ManagerConfig,
        temporary_home: tempfile.TemporaryDirectory[str] | None,
    ) -> None:
        self.shared = Shared(loop, codex_home, model, config)
        self.registry = Registry()
        self.report: Reply[CloseReport] = Reply(self.shared.pump, 3 * config.close_timeout_s + REPORT_MARGIN_S)
        self.report.error()  # looked at: nobody has to read a report
        self.on_closed: Callable[[], None] | None = None
        self._hurry = asyncio.Event()
        self._closing: asyncio.Task[CloseReport] | None = None
        self._ref: Any = None
        self._temporary_home = temporary_home
        self.shared.warn = self._warn
        atexit.register(self._drain_at_exit)

    def start_supervisor(self, services: Services) -> SupervisorActor:
        """Start the supervisor; only the caller holds it."""
        born: list[SupervisorActor] = []
        self._ref = SupervisorActor.start(self.shared, self.registry, services, self.stop, born.append)
        return born.pop()

    def stop(self, reply: Reply[None] | None) -> None:
        """pykka's stop of the supervisor: a close. Runs in: the loop's OS thread."""
        self.begin_close()
        if reply is not None:
            self.report.when_done(lambda: reply.answer(None))

    def drop(self) -> None:
        """The manager was dropped: as a close, without waiting. Runs in: a finalizer, on any OS thread."""
        if os.getpid() == self.shared.pid:
            self.shared.pump.post(self.begin_close)

    def begin_close(self) -> None:
        """Start closing, once. Runs in: the loop's OS thread."""
        if self._closing is None:
            self.shared.is_closing = True
            pump = self.shared.pump
            closing = close_down(self.shared, self.registry.actors(), self._hurry)
            self._closing = pump.loop.create_task(closing, context=pump.context.copy())
            self._closing.add_done_callback(self._closed)

    def hurry(self) -> None:
        """Cut the grace of a close to 0, not the writing. Runs in: the loop's OS thread."""
        self._hurry.set()

    def _closed(self, task: asyncio.Task[CloseReport]) -> None:
        atexit.unregister(self._drain_at_exit)
        self.registry.listed.clear()
        retire(self._ref)
        self.shared.close_index()
        if self._temporary_home is not None:
            try:
                self._temporary_home.cleanup()
            except OSError as reason:  # the report has to be given, and the loop to end
                logger.warning("the temporary home is left behind: %s", reason)
        if task.cancelled():
            # The host's loop ends first: the writer still writes what it has, when the process ends if not before.
            self.report.answer(CloseReport(is_drained=self.shared.writer.close(self.shared.config.close_timeout_s)))
        elif (error := task.exception()) is not None:
            self.report.fail(error)
        else:
            self.report.answer(task.result())
        self.shared.pump.abandon()
        if self.on_closed is not None:
            self.on_closed()

    def _drain_at_exit(self) -> None:
        """The process ends and nobody closed the manager: what was accepted is written."""
        if os.getpid() == self.shared.pid:
            self.shared.writer.drain(self.shared.config.close_timeout_s)

    def _warn(self, thread_id: str, text: str) -> None:
        for actor in self.registry.actors():
            if str(actor.thread_id) == thread_id:
                actor.actor_inbox.put(Letter(messages.WarnOf(text)))


def open_in_os_thread(make: Callable[[asyncio.AbstractEventLoop], Any]) -> tuple[Any, threading.Thread]:
    """Run `make(loop)` on a loop in a daemon OS thread of its own, which ends when the loop is stopped.

    Returns:
        What `make` returned, and the OS thread.
    """
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    thread = threading.Thread(target=_run_loop, args=(make, made), name="codex_actors-loop", daemon=True)
    thread.start()
    result = made.get()
    if isinstance(result, BaseException):
        raise result
    return result, thread


def _run_loop(make: Callable[[asyncio.AbstractEventLoop], Any], made: queue.SimpleQueue[Any]) -> None:
    # `asyncio.Runner` would hold what `make` returns for as long as the loop runs; nothing here may hold the supervisor.
    try:
        loop = asyncio.new_event_loop()
    except Exception as error:  # no file descriptor is left, above all: the caller raises it
        made.put(error)
        return
    asyncio.set_event_loop(loop)
    loop.call_soon(_make, make, made, loop)
    del make, made
    try:
        while not _run_until_stopped(loop):
            pass
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.1))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> bool:
    """False if a `KeyboardInterrupt` or `SystemExit` broke in: the code that raised it has failed, others go on.

    Ctrl-C reaches Python's main OS thread alone, and this is not it.
    """
    try:
        loop.run_forever()
    except (KeyboardInterrupt, SystemExit) as error:
        logger.warning("%r was raised on the manager's own loop, which goes on", error)
        return False
    return True


def _make(
    make: Callable[[asyncio.AbstractEventLoop], Any], made: queue.SimpleQueue[Any], loop: asyncio.AbstractEventLoop
) -> None:
    try:
        made.put(make(loop))
    except BaseException as error:  # whatever it is: the caller's OS thread waits for it, and raises it
        made.put(error)
        loop.stop()
