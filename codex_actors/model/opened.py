"""A model while a manager uses it: entered on the manager's loop at first use, left at the manager's close."""

from __future__ import annotations

import asyncio
import contextvars
import logging

from codex_actors.model.provider import ModelProvider

logger = logging.getLogger("codex_actors")


class OpenedModel:
    """Enters `model.open()` once, in a task of its own, which also leaves it: one task for both, as async context
    managers may require."""

    def __init__(self, model: ModelProvider, context: contextvars.Context) -> None:
        self.model = model
        self.is_open = False
        self._context = context
        self._opening: asyncio.Future[None] | None = None
        self._closing: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Wait until it is open; many may. Raises what `open()` raises, to all that wait; the next one tries again."""
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening, self._closing = loop.create_future(), asyncio.Event()
            self._task = loop.create_task(self._hold(self._opening, self._closing), context=self._context.copy())
        await asyncio.shield(self._opening)

    async def _hold(self, opening: asyncio.Future[None], closing: asyncio.Event) -> None:
        try:
            async with self.model.open():
                self.is_open = True
                opening.set_result(None)
                await closing.wait()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a SystemExit out of a model must not end the loop
            self._opening = None
            if opening.get_loop().is_closed():  # collected behind the end of its loop
                raise
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if opening.done():
                logger.error("leaving the model failed: %s: %s", type(error).__name__, error)
                return
            opening.set_exception(error)
            opening.exception()
        finally:
            self.is_open = False
            if not opening.done():
                opening.cancel()

    async def close(self) -> None:
        """Leave it."""
        if self._task is not None and self._closing is not None:
            self._closing.set()
            await asyncio.gather(self._task, return_exceptions=True)
