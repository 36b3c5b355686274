"""A `Prompt` as the body and the headers of a request to the Responses API.

Source: `codex-rs/core/src/client.rs`, `ResponsesApiRequest`; `codex-rs/protocol/src/models.rs`, `ResponseItem`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from operator import is_
from typing import Any

from pydantic_core import to_json

from codex_actors.model.provider import Prompt
from codex_actors.protocol.items import GhostSnapshot, Reasoning, ResponseItem, Verbatim
from codex_actors.protocol.wire import was_read, wire_json

_WITHOUT_ID = {"id"}
_SHORT_ITEMS = 8


class EncodedHistories:
    """Keeps the JSON of the histories of threads: a request has what the one before had, and some more.

    An item costs 3.4 µs to encode and 0.2 µs to look up (CPython 3.12, a virtual machine with 2 AMD EPYC cores), and a
    history has hundreds. Short ones are not kept, so that many small threads stay small; beyond `max_bytes` in all, the
    ones that were not asked for the longest are dropped.

    Runs in: one loop; it is not shared.
    """

    def __init__(self, max_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[tuple[ResponseItem, ...], list[bytes], int]] = OrderedDict()

    def encode(self, thread_id: str, items: tuple[ResponseItem, ...], has_id: bool) -> list[bytes]:
        """The JSON of each item, b"" for one that is not sent. The caller must not change the list."""
        if len(items) < _SHORT_ITEMS:
            return [_item_json(item, has_id) for item in items]
        before, parts, size = self._kept.pop(thread_id, ((), [], 0))
        self._bytes -= size
        if len(before) > len(items) or not all(map(is_, before, items)):  # compacted, or rolled back
            before, parts, size = (), [], 0
        new = [_item_json(item, has_id) for item in items[len(before) :]]
        parts, size = parts + new, size + sum(map(len, new))
        self._kept[thread_id] = items, parts, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][2]
        return parts


def request_body(
    prompt: Prompt, added: Iterable[ResponseItem] = (), *, is_stored: bool = False, histories: EncodedHistories
) -> bytes:
    """The JSON of a request.

    Args:
        added: Items behind the prompt's own input.
        is_stored: Whether the server keeps the response; items then carry the ids that it gave them, which a server
            that keeps nothing would not find.
    """
    body: dict[str, Any] = {
        "model": prompt.model,
        "tools": prompt.tools,
        "tool_choice": "auto",
        "parallel_tool_calls": prompt.parallel_tool_calls,
        "store": is_stored,
        "stream": True,
        "prompt_cache_key": str(prompt.thread_id),
    }
    if prompt.instructions is not None:
        body["instructions"] = prompt.instructions
    if prompt.reasoning_effort is not None:  # not by default: a server without reasoning refuses the object
        reasoning = {"effort": prompt.reasoning_effort}
        if prompt.reasoning_summary != "none":
            reasoning["summary"] = prompt.reasoning_summary
        body |= {"reasoning": reasoning, "include": ["reasoning.encrypted_content"]}
    text: dict[str, Any] = {}
    if prompt.verbosity is not None:
        text["verbosity"] = prompt.verbosity
    if prompt.output_schema is not None:
        text["format"] = {
            "type": "json_schema",
            "name": "codex_output_schema",
            "strict": True,
            "schema": prompt.output_schema,
        }
    if text:
        body["text"] = text
    items = histories.encode(prompt.thread_id, prompt.input, is_stored)
    sent = filter(None, [*items, *(_item_json(item, is_stored) for item in added)])
    return b"".join((b'{"input":[', b",".join(sent), b"],", to_json(body, fallback=dict)[1:]))


def prompt_headers(prompt: Prompt) -> dict[str, str]:
    """The headers that say whose request it is."""
    headers = {"conversation_id": str(prompt.thread_id), "session_id": str(prompt.thread_id)}
    if prompt.subagent is not None:
        headers["x-openai-subagent"] = prompt.subagent
    return headers


def _item_json(item: ResponseItem, has_id: bool) -> bytes:
    if isinstance(item, Verbatim):
        return to_json(item.raw)
    if isinstance(item, GhostSnapshot):
        return b""
    without: set[str] | None = None
    # To look for what to leave out costs as much as the rest.
    if not has_id and (getattr(item, "id", None) is not None or was_read(item)):
        without = _WITHOUT_ID
    if isinstance(item, Reasoning) and any(part.type == "reasoning_text" for part in item.content or ()):
        # Raw thoughts are not sent back. Source: should_serialize_reasoning_content.
        without = {*(without or ()), "content"}
    return wire_json(item, without)
