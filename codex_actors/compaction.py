"""Replacing a long history by a summary: what the model is asked, and what is left. No actor inside.

Source: `codex-rs/core/src/compact.rs`; the words are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from codex_actors.errors import ContextWindowExceeded, StreamError
from codex_actors.model.provider import Completed, ItemDone, ModelProvider, Prompt, Retrying, check_event, close_stream
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    LocalShellCall,
    Message,
    ResponseItem,
)
from codex_actors.rollout.truncation import is_user_message

COMPACT_PROMPT = """\
Write a handoff summary of this conversation: somebody who has not seen it will go on with the work from your summary alone.

Say, as briefly as the matter allows:
- what the user wants, with every condition and preference that was stated;
- what has been done and decided so far, and why;
- the facts that the work goes on from: names, paths, figures, commands, errors, in their exact words;
- what is left to do, the next step first."""

SUMMARY_PREFIX = """\
The conversation so far was replaced by the summary below, written by the model that led it. Go on from there, and do not \
repeat work that it reports as done."""

BYTES_PER_TOKEN = 4
"""What a token is taken for where no server has counted. Source: `truncate.rs`, `APPROX_BYTES_PER_TOKEN`."""


EVENTS_PER_SLICE = 256
"""After so many events the loop is given back: nobody is told of deltas, so that a model that never waits would keep it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The model's summary. `usage` is that of its request, or None; `left_out` how many of the oldest items the model
    could not be shown."""

    text: str
    usage: TokenUsage | None
    left_out: int


def compaction_prompt(prompt: Prompt, history: Sequence[ResponseItem], text: str | None) -> Prompt:
    """The request for a summary of `history`; `text` None asks with `COMPACT_PROMPT`."""
    asked = Message(role="user", content=(InputText(text=text or COMPACT_PROMPT),))
    return replace(
        prompt,
        input=(*history, asked),
        tools=(),
        parallel_tool_calls=False,
        output_schema=None,
        subagent="compact",
    )


def has_what_to_compact(history: Iterable[ResponseItem]) -> bool:
    """Whether there is anything in it but what the runtime tells every model."""
    return any(
        not isinstance(item, Message) or item.role not in ("developer", "user", "system") or is_user_message(item)
        for item in history
    )


SummaryStep: TypeAlias = Retrying | Summary


async def summarize(prompt: Prompt, model: ModelProvider) -> AsyncIterator[SummaryStep]:
    """Ask the model for a summary; the last step is the `Summary`.

    What is too long for the model loses its oldest item, with the output or call that belongs to it, until it fits.

    Raises:
        CodexError: the model failed, or wrote no summary.
    """
    left_out = events = 0
    while True:
        text: str | None = None
        stream = model.stream(prompt)
        try:
            async for event in stream:
                check_event(event)
                events += 1
                if events % EVENTS_PER_SLICE == 0:
                    await asyncio.sleep(0)
                if isinstance(event, Retrying):
                    yield event
                elif isinstance(event, ItemDone) and isinstance(event.item, Message):
                    text = event.item.text
                elif isinstance(event, Completed):
                    if not text or not text.strip():
                        raise StreamError("the model wrote no summary")
                    yield Summary(text, event.usage, left_out)
                    return
        except ContextWindowExceeded:
            shorter = without_oldest(prompt.input[:-1])
            if not shorter:
                raise
            left_out += len(prompt.input) - 1 - len(shorter)
            prompt = replace(prompt, input=(*shorter, prompt.input[-1]))
            continue
        finally:
            await close_stream(stream)
        raise StreamError("stream closed before response.completed")


def without_oldest(items: Sequence[ResponseItem]) -> tuple[ResponseItem, ...]:
    """`items` without the first, and without the output or call that belongs to it.

    Source: `context_manager/history.rs`, `remove_first_item`.
    """
    if not items:
        return ()
    pair = _pair_of(items[0])
    rest = list(items[1:])
    if pair is not None:
        is_output, *name = pair
        for index, item in enumerate(rest):
            if _pair_of(item) == (not is_output, *name):
                del rest[index]
                break
    return tuple(rest)


def estimated_tokens(items: Iterable[ResponseItem]) -> int:
    """About how many tokens the items are, by the length of their JSON."""
    return sum(len(item.model_dump_json(exclude_none=True)) for item in items) // BYTES_PER_TOKEN


def _pair_of(item: ResponseItem) -> tuple[bool, bool, str | None] | None:
    """Whether it is an output, and what it has in common with its call; None for any other item."""
    if isinstance(item, LocalShellCall):
        return False, False, item.id if item.call_id is None else item.call_id
    if isinstance(item, FunctionCall | FunctionCallOutput):
        return isinstance(item, FunctionCallOutput), False, item.call_id
    if isinstance(item, CustomToolCall | CustomToolCallOutput):
        return isinstance(item, CustomToolCallOutput), True, item.call_id
    return None
