from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from codex_actors.model.provider import (
    MODEL_EVENTS,
    Completed,
    ItemAdded,
    ItemDone,
    ModelProvider,
    ReasoningDelta,
    Retrying,
    TextDelta,
    close_stream,
    provider_name,
    provider_presets,
)
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.history import ModelPreset


class Nameless:
    pass


class Offering:
    name = "shop"
    presets = (ModelPreset(id="a", model="a", display_name="A"),)


def test_name_falls_back_to_the_class() -> None:
    assert provider_name(Nameless()) == "nameless"
    assert provider_name(Offering()) == "shop"


def test_presets_fall_back_to_one_default() -> None:
    (preset,) = provider_presets(Nameless())
    assert (preset.model, preset.is_default) == ("nameless", True)
    assert provider_presets(Offering()) == Offering.presets


def test_protocol_is_checked_at_runtime() -> None:
    assert isinstance(ScriptedModel(), ModelProvider)
    assert not isinstance(Nameless(), ModelProvider)


def test_model_events_are_all_listed() -> None:
    assert set(MODEL_EVENTS) == {ItemAdded, TextDelta, ReasoningDelta, ItemDone, Completed, Retrying}


@pytest.mark.parametrize("close_twice", [False, True])
def test_close_stream_runs_the_finally_once(close_twice: bool) -> None:
    closed = []

    async def stream() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    async def main() -> None:
        events = stream()
        await anext(events)
        await close_stream(events)
        if close_twice:
            await close_stream(events)

    asyncio.run(main())
    assert closed == [True]


def test_close_stream_accepts_plain_iterators() -> None:
    asyncio.run(close_stream(iter(())))
