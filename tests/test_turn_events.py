from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import pytest

from codex_actors import Config, ThreadManager
from codex_actors.model.provider import (
    Completed,
    ItemAdded,
    ItemDone,
    ModelEvent,
    Prompt,
    ReasoningDelta,
    Retrying,
    TextDelta,
)


class Rubbish:
    def __init__(self, event: Any) -> None:
        self.event = event

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        yield self.event
        yield Completed(None)

    def open(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


RUBBISH: dict[str, Any] = {
    "a str, which is no model event": "text",
    "a TextDelta whose delta is a int": TextDelta(5),  # type: ignore[arg-type]
    "a ReasoningDelta whose delta is a bytes": ReasoningDelta(b"x"),  # type: ignore[arg-type]
    "a ItemAdded whose item is a NoneType": ItemAdded(None),  # type: ignore[arg-type]
    "a ItemDone whose item is a str": ItemDone("x"),  # type: ignore[arg-type]
    "a Completed whose usage is a str": Completed("much"),  # type: ignore[arg-type]
    "a Retrying whose message is a int": Retrying(3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("text", "event"), RUBBISH.items(), ids=list(RUBBISH))
def test_rubbish_fails_its_turn_and_not_the_thread(text: str, event: Any) -> None:
    async def main() -> None:
        model = Rubbish(event)
        async with ThreadManager(model=model) as manager:
            thread = (await manager.start_thread(Config())).thread
            failed = await asyncio.wait_for(thread.run("x"), 10)
            assert failed.error is not None
            assert text in failed.error
            assert failed.items == ()
            model.event = TextDelta("fine")
            assert (await asyncio.wait_for(thread.run("y"), 10)).error is None

    asyncio.run(main())
