"""What a model is told of an MCP server's tools and their results, from the JSON that the server sent."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from codex_actors.tools.tool import ToolArgumentsError, ToolError

NAME_CHARS = 64
"""What the model's server takes as the name of a tool, of the letters A-Z a-z 0-9 _ -."""

_HASH_CHARS = 8


def tool_names(server: str, tools: Sequence[str]) -> list[str]:
    """A name `mcp__<server>__<tool>` for each of the tools, whose own names are unique.

    What may not stand in a name becomes `_`. One that would be too long, or the same as another's, ends with 8 hex digits
    of its hash: it is the same at each start.
    """
    made = [re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp__{server}__{tool}") for tool in tools]
    times = Counter(made)
    return [
        name if times[name] == 1 and len(name) <= NAME_CHARS else _hashed(name, tool)
        for name, tool in zip(made, tools, strict=True)
    ]


def _hashed(name: str, tool: str) -> str:
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{name[: NAME_CHARS - _HASH_CHARS - 1]}_{digest}"


def read_arguments(name: str, arguments: str) -> dict[str, Any]:
    """The model's arguments as a JSON object; `""` stands for `{}`.

    Raises:
        ToolArgumentsError: they are none.
    """
    try:
        value = from_json(arguments or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise ToolArgumentsError(name, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ToolArgumentsError(name, f"{arguments[:100]} is not a JSON object")
    return value


def read_result(result: Mapping[str, Any]) -> str:
    """The text of a tool's result, as the model reads it.

    Structured content stands as JSON in the place of text, which repeats it. What is not text is named with its size.
    Source: `codex-rs/protocol/src/models.rs`, `FunctionCallOutputPayload` of a `CallToolResult`; there, content
    that is not text is dropped too.

    Raises:
        ToolError: the server said that it is an error.
    """
    structured = result.get("structuredContent")
    content = list(result.get("content") or ())
    if structured is not None:
        content = [block for block in content if block.get("type") != "text"]
    words = [*([] if structured is None else [to_json(structured).decode()]), *map(_block, content)]
    text = "\n".join(words)
    if result.get("isError"):
        raise ToolError(text or "the tool failed, and did not say why")
    return text


def _block(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio", "data": str(data)}:
            return f"[{block.get('mimeType') or block['type']}, {_size(data):,} bytes]"
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": uri, "blob": str(blob)} as resource}:
            return f"[{', '.join(_said(uri, resource.get('mimeType')))}, {_size(blob):,} bytes]"
        case {"type": "resource_link", "uri": uri}:
            return f"[link: {', '.join(_said(uri, block.get('title') or block.get('name'), block.get('description')))}]"
    return f"[content of the type {block.get('type')!r}, which is not shown]"


def _said(*words: object) -> Iterator[str]:
    return (str(word) for word in words if word)


def _size(base64: str) -> int:
    return len(base64) * 3 // 4 - base64[-2:].count("=")
