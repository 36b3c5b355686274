"""The events of a Responses API stream, from their JSON to ours.

Source: `codex-rs/codex-api/src/sse/responses.rs`, `process_responses_event`. What is not known, or is no JSON, is
skipped, as there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from codex_actors.errors import StreamError
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, ReasoningDelta, TextDelta
from codex_actors.model.sse import SseDecoder
from codex_actors.model.wire_errors import stream_error
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import RESPONSE_ITEM, Message, Reasoning, ResponseItem
from codex_actors.protocol.wire import made

logger = logging.getLogger("codex_actors")


class EventReader:
    """Reads one stream."""

    def __init__(self) -> None:
        self._decoder = SseDecoder()

    def read(self, chunk: bytes) -> Iterator[ModelEvent]:
        """What `chunk` brings.

        Raises:
            ModelError: the server says that it failed, or an event has no end. What came before was yielded.
        """
        for name, data in self._decoder.feed(chunk):
            try:
                event = from_json(data, cache_strings="keys")
            except ValueError:
                event = _mended(data)
            if type(event) is not dict:
                continue
            kind = event.get("type", name)
            if kind == "response.output_text.delta":  # first: most events are
                delta = event.get("delta")
                if type(delta) is str:
                    yield TextDelta(delta)
                continue
            handler = _HANDLERS.get(kind) if type(kind) is str else None
            found = None if handler is None else handler(event)
            if found is not None:
                yield found


def _mended(data: str) -> Any:
    """`data` with each half of a character that stands alone as `?` (servers cut texts between the halves of an
    emoji); None where it is no JSON even so."""
    if "\\u" not in data:
        return None
    try:
        return from_json(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _item_added(event: dict[str, Any]) -> ModelEvent | None:
    raw = event.get("item")
    if not isinstance(raw, dict) or raw.get("type") not in ("message", "reasoning"):
        return None  # calls are told of when they are whole
    try:
        item = RESPONSE_ITEM.validate_python(raw)
    except ValidationError:
        return None
    # Some servers put the first of the text in here as well, and send it as a delta again.
    if isinstance(item, Message) and item.content:
        item = item.model_copy(update={"content": ()})
    elif isinstance(item, Reasoning) and (item.summary or item.content):
        item = item.model_copy(update={"summary": (), "content": None})
    return ItemAdded(item)


def _item_done(event: dict[str, Any]) -> ModelEvent | None:
    item = _parsed(event.get("item"))
    return None if item is None else ItemDone(item)


def _parsed(raw: Any) -> ResponseItem | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        return None
    try:
        return RESPONSE_ITEM.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        logger.warning("left out an output item of type %r: %s: %s", raw["type"], where, first["msg"])
        return None


def _summary_part(event: dict[str, Any]) -> ModelEvent | None:
    """Parts are joined by blank lines, as in `Reasoning.text`."""
    index = event.get("summary_index")
    return ReasoningDelta("\n\n") if isinstance(index, int) and index > 0 else None


def _summary_delta(event: dict[str, Any]) -> ModelEvent | None:
    delta = event.get("delta")
    return ReasoningDelta(delta) if isinstance(delta, str) and "summary_index" in event else None


def _completed(event: dict[str, Any]) -> ModelEvent:
    response = _object(event.get("response"))
    response_id = response.get("id")
    return Completed(_usage(response.get("usage")), response_id if isinstance(response_id, str) else None)


def _usage(raw: Any) -> TokenUsage | None:
    if not isinstance(raw, dict):
        return None
    read, written = _count(raw, "input_tokens"), _count(raw, "output_tokens")
    return made(
        TokenUsage,
        input_tokens=read,
        cached_input_tokens=_count(_object(raw.get("input_tokens_details")), "cached_tokens"),
        output_tokens=written,
        reasoning_output_tokens=_count(_object(raw.get("output_tokens_details")), "reasoning_tokens"),
        total_tokens=_count(raw, "total_tokens") or read + written,
    )


def _count(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    return value if type(value) is int and value >= 0 else 0


def _failed(event: dict[str, Any]) -> ModelEvent:
    raise stream_error(_object(event.get("response")).get("error"))


def _error(event: dict[str, Any]) -> ModelEvent:
    error = event.get("error")
    raise stream_error(error if isinstance(error, dict) else event)


def _incomplete(event: dict[str, Any]) -> ModelEvent:
    details = _object(_object(event.get("response")).get("incomplete_details"))
    raise StreamError(f"Incomplete response returned, reason: {details.get('reason') or 'unknown'}")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_HANDLERS: dict[str, Callable[[dict[str, Any]], ModelEvent | None]] = {
    "response.output_item.added": _item_added,
    "response.output_item.done": _item_done,
    "response.reasoning_summary_part.added": _summary_part,
    "response.reasoning_summary_text.delta": _summary_delta,
    "response.completed": _completed,
    "response.failed": _failed,
    "response.incomplete": _incomplete,
    "error": _error,
}
