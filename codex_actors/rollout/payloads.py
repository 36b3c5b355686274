"""What single lines carry, where somebody needs to know: their items and payloads as models.

The law of this file: what does not fit is None, never an error, and never another value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.history import EventMsgLine
from codex_actors.protocol.items import ITEM_KINDS, ResponseItem, Verbatim
from codex_actors.protocol.wire import Wire, keep_order
from codex_actors.rollout.lines import value_of

W = TypeVar("W", bound=Wire)

_TEXT_OR_NULL = (str, type(None))


def line_in(kind: type[W], line: bytes) -> W | None:
    """The line as a model, or None where it does not fit."""
    value = value_of(line)
    try:
        return None if value is None else kind.model_validate(value)
    except (ValidationError, TypeError):
        return None


def item_in(line: bytes) -> ResponseItem | None:
    """The item of a `response_item` line, or None where it has none that fits."""
    value = value_of(line)
    if value is None or type(value.get("submission_id", "")) not in _TEXT_OR_NULL:
        return None
    return item_of(value.get("payload"))


def item_of(payload: Any) -> ResponseItem | None:
    """The item that a JSON object is, or None."""
    if not isinstance(payload, dict):
        return None
    tag = payload.get("type")
    kind = ITEM_KINDS.get(tag) if isinstance(tag, str) else None
    if kind is None:
        return Verbatim(raw=payload)
    try:
        item: ResponseItem = kind.__pydantic_validator__.validate_python(payload)
    except ValidationError:
        return None
    keep_order(item, payload)
    return item


def replacement_in(line: bytes) -> list[ResponseItem]:
    """The items of a `compacted` line that replace those before it; empty where it has none."""
    payload = (value_of(line) or {}).get("payload")
    replacement = payload.get("replacement_history") if isinstance(payload, dict) else None
    return [item for item in map(item_of, replacement or ()) if item is not None]


def payload_in(line: bytes, kind: type[W]) -> W | None:
    """The payload of a line, or None where it does not fit."""
    value = value_of(line)
    try:
        return None if value is None else kind.model_validate(value.get("payload"))
    except (ValidationError, TypeError):
        return None


class RecordedEvents(Sequence[EventMsg]):
    """The events of recorded lines, which are parsed when somebody looks at them."""

    __slots__ = ("_events", "_lines")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines: tuple[bytes, ...] | None = tuple(lines)
        self._events: tuple[EventMsg, ...] = ()

    def _parsed(self) -> tuple[EventMsg, ...]:
        lines, self._lines = self._lines, None
        if lines is not None:
            found = [line_in(EventMsgLine, line) for line in lines]
            self._events = tuple(line.payload for line in found if line is not None)
        return self._events

    def __len__(self) -> int:
        return len(self._parsed())

    @overload
    def __getitem__(self, index: int) -> EventMsg: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[EventMsg]: ...

    def __getitem__(self, index: int | slice) -> EventMsg | Sequence[EventMsg]:
        return self._parsed()[index]

    def __iter__(self) -> Iterator[EventMsg]:
        return iter(self._parsed())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._parsed() == tuple(other)

    def __hash__(self) -> int:
        return hash(len(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} events)"
