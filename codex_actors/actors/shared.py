"""What every actor of one manager shares: the loop's pump, the writer, the OS threads, the model, the settings."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from codex_actors.actors.unwritten import Kept, Unwritten, unheard
from codex_actors.config import Config, ManagerConfig, ToolLike
from codex_actors.context import turn_context
from codex_actors.errors import RolloutError
from codex_actors.model.opened import OpenedModel
from codex_actors.model.provider import ModelProvider
from codex_actors.protocol.history import TurnContextItem
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.claims import Claims
from codex_actors.rollout.index import Index
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.doorbell import Doorbell
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import in_os_thread
from codex_actors.runtime.watchdog import Watchdog
from codex_actors.runtime.workers import Workers
from codex_actors.tools.toolbox import Toolbox, called, guarded

logger = logging.getLogger("codex_actors")

T = TypeVar("T")

LOADS_BOUND = 32
"""Rollouts that are read at once."""


class Shared:
    """Made in the loop's OS thread, when the manager is entered."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, codex_home: Path | None, model: ModelProvider, config: ManagerConfig
    ) -> None:
        self.config = config
        self.codex_home = codex_home
        self.clock: Clock = config.clock or Clock()
        self.pump = Pump(loop, self.clock)
        self.pid = self.pump.pid
        self.check_process = self.pump.check_process
        self.model = OpenedModel(model, self.pump.context)
        self.workers = Workers(self.pump)
        self.loads = asyncio.Semaphore(LOADS_BOUND)
        self.writer: Doorbell[tuple[Append, int, Kept]] = Doorbell(self.pump, self._write)
        self.watchdog = Watchdog(self.pump, config.block_warning_s, mark, self._blocked)
        self.warn: Callable[[str, str], None] | None = None
        self.is_closing = False
        self.unwritten = Unwritten(self.pump, self._retry)
        self.turns: set[asyncio.Task[None]] = set()
        self.loading: dict[Any, asyncio.Task[Any]] = {}
        self.moving: set[ThreadId] = set()
        self.index: Index | None = None
        self.index_turn = asyncio.Semaphore(1)
        self.touched: set[Path] = set()
        self._cwd: tuple[str, Path] | None = None
        self._turn_context: tuple[Config, str, dict[str, Any] | None, Path, TurnContextItem] | None = None
        is_locked = codex_home is not None and config.single_writer == "locked"
        is_synced = config.durability == "fsync"
        self.claims = Claims(codex_home, self.clock.now, is_synced=is_synced) if codex_home and is_locked else None
        """What is written here and by nobody else; None where nothing is kept, or the host sees to that."""
        self._rollouts = RolloutWriter(config.durability, claims=self.claims)
        self._toolboxes: weakref.WeakValueDictionary[int, Toolbox] = weakref.WeakValueDictionary()

    def cwd(self) -> Path:
        """The process's working directory, as one object for all threads that begin in it."""
        text = os.getcwd()
        if self._cwd is None or self._cwd[0] != text:
            self._cwd = (text, Path(text))
        return self._cwd[1]

    async def load(self, call: Callable[[], T]) -> T:
        """Read files in an OS thread: not one of the tools', which may all be at work for long."""
        async with self.loads:
            value: T = await in_os_thread(call)
            return value

    def turn_context(self, config: Config, model: str, schema: dict[str, Any] | None, cwd: Path) -> TurnContextItem:
        """The settings of a turn; most turns of most threads have the same as the one before."""
        last = self._turn_context
        if last is None or last[0] is not config or last[1:4] != (model, schema, cwd):
            item = turn_context(config, model, schema, cwd=cwd)
            last = self._turn_context = (config, model, schema, cwd, item)
        return last[4]

    def toolbox(self, tools: tuple[ToolLike, ...]) -> Toolbox:
        """The toolbox of these tools; threads with the same tuple share it."""
        box = self._toolboxes.get(id(tools))
        if box is None or box.tools is not tools:
            box = self._toolboxes[id(tools)] = Toolbox(tools, self.workers, self.config)
        return box

    def _retry(self, path: Path, number: int, kept: Kept) -> None:
        self.writer.put((Append(path, self.clock.timestamp(), (), create=False), number, kept))

    def leave(self, path: Path) -> None:
        """Nothing more is written to `path`, but for what waits: the file may change from then on."""
        self.writer.put((Append(path, self.clock.timestamp(), (), create=False, is_last=True), 0, unheard))

    def _write(self, batch: list[tuple[Append, int, Kept]]) -> None:
        """Runs in: the writer's OS thread."""
        errors: list[RolloutError | None]
        try:
            errors = self._rollouts.write([append for append, _, _ in batch])
        except (
            Exception
        ) as error:  # a bug, which must leave neither a wait without an end nor the next batches unwritten
            logger.exception("the rollout writer failed")
            errors = [RolloutError(append.path, f"the rollout writer failed ({error!r})") for append, _, _ in batch]
        results = [
            (append.path, number, kept, error) for (append, number, kept), error in zip(batch, errors, strict=True)
        ]
        self.pump.post(self._written, deque(results))

    def _written(self, results: deque[tuple[Path, int, Kept, RolloutError | None]]) -> None:
        try:
            while results:
                path, number, kept, error = results.popleft()
                if self.index is not None:
                    self.touched.add(path)
                settled = self.unwritten.take(path, number, kept, error)
                if settled is not None:
                    _acknowledge(path, *settled, None)
                _acknowledge(path, number, kept, error)
        finally:
            if results:  # a KeyboardInterrupt passes
                self.pump.post(self._written, results)

    def close_files(self) -> None:
        """Close them, unless the writer's OS thread is still at it, which would write into what is closed.

        Runs in: any OS thread.
        """
        if self.writer.is_at_rest:
            self._rollouts.close()

    def close_index(self) -> None:
        """Close the index, where it was ever asked."""
        if self.index is not None:
            self.index.close()

    def lacking(self) -> tuple[tuple[Path, str], ...]:
        """The rollouts that lack lines, and why."""
        waiting = self._rollouts.waiting() if self.writer.is_at_rest else self.unwritten.reasons
        return self.unwritten.report(waiting)

    def _blocked(self, stack: str, marks: dict[str, str]) -> None:
        """Runs in: the loop's OS thread, once it is free again."""
        who = f"tool {marks['tool']}" if "tool" in marks else "something"
        where = f" of thread {marks['thread']}" if "thread" in marks else ""
        text = f"the event loop was blocked for more than {self.config.block_warning_s:g} s by {who}{where}:\n{stack}"
        logger.warning(text)
        if self.warn is not None:
            self.warn(marks.get("thread", ""), text)


def _acknowledge(path: Path, number: int, kept: Kept, error: RolloutError | None) -> None:
    """Tell one thread; where that raises, its wait ends with an error, and the others hear of theirs."""
    try:
        kept(number, error)
    except Exception as raised:
        logger.exception("rollout %s: what was recorded could not be shown", path)
        if error is None:
            _acknowledge(path, number, kept, RolloutError(path, f"what was recorded could not be shown ({raised!r})"))


def mark(frame: FrameType) -> dict[str, str]:
    """The tool and thread at work in a sampled frame of ours. Runs in: the watchdog's OS thread."""
    found: dict[str, Any] = {}
    if frame.f_code is guarded.__code__ or frame.f_code is called.__code__:
        context, tool = frame.f_locals.get("context"), frame.f_locals.get("tool")
        found = {"tool": getattr(tool, "name", None), "thread": getattr(context, "thread_id", None)}
    elif frame.f_code.co_name == "drive_turn" and "thread_id" in frame.f_locals:
        found = {"thread": frame.f_locals["thread_id"]}
    return {key: str(value) for key, value in found.items() if value is not None}
