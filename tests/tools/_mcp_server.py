"""An MCP server with tools that behave in all ways, well and badly. Run by the tests of `tools/mcp.py` as a process."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

ANY = {"type": "object"}
ECHO = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 1000}}, "required": ["text"]}
CITY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
READS = ToolAnnotations(read_only_hint=True)

TOOLS = [
    Tool(name="echo", description="Say it again.", input_schema=ECHO, annotations=READS),
    Tool(name="structured", title="A city", input_schema=ANY, output_schema=CITY),
    Tool(name="wrong", input_schema=ANY, output_schema=CITY),
    Tool(name="unstructured", input_schema=ANY, output_schema=CITY),
    Tool(name="mixed", input_schema=ANY),
    Tool(name="refuses", input_schema=ANY),
    Tool(name="raises", input_schema=ANY),
    Tool(name="slow", input_schema=ANY),
    Tool(name="crash", input_schema=ANY),
    Tool(name="big", input_schema=ANY),
    Tool(name="noise", input_schema=ANY),
    Tool(name="about", input_schema=ANY),
    Tool(name="child", input_schema=ANY),
    Tool(name="dotted.name/ü", input_schema=ANY),
    Tool(name="same.name", input_schema=ANY),
    Tool(name="same/name", input_schema=ANY),
    Tool(name="long" * 20, input_schema=ANY),
]
PAGE = 7


async def list_tools(context: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
    first = int(params.cursor) if params and params.cursor else 0
    last = first + PAGE
    return ListToolsResult(tools=TOOLS[first:last], next_cursor=str(last) if last < len(TOOLS) else None)


async def call_tool(context: Any, params: CallToolRequestParams) -> CallToolResult:
    given = params.arguments or {}
    match params.name:
        case "structured":
            return CallToolResult(
                content=[TextContent(text='{"name": "Zürich"}')], structured_content={"name": "Zürich"}
            )
        case "wrong":
            return CallToolResult(content=[], structured_content={"name": 7})
        case "mixed":
            return CallToolResult(content=mixed())
        case "refuses":
            return CallToolResult(content=[TextContent(text="that city is closed")], is_error=True)
        case "raises":
            raise ValueError("no such city")
        case "slow":
            await slow(Path(given["marks"]))
        case "crash":
            print("the last words", "of", os.environ.get("TOKEN"), file=sys.stderr, flush=True)
            os._exit(given.get("code", 7))
        case "noise":
            print(f"{'x' * 100}\n" * 20_000, "at last", sep="", file=sys.stderr, flush=True)
    return CallToolResult(content=[TextContent(text=text_of(params.name, given))])


def text_of(name: str, given: dict[str, Any]) -> str:
    match name:
        case "echo":
            return str(given["text"])
        case "big":
            return "€" * given["chars"]
        case "about":
            return f"{os.getcwd()} {sorted(os.environ)}"
        case "child":
            return str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    return name


def mixed() -> list[Any]:
    data = base64.b64encode(b"12345").decode()
    return [
        TextContent(text="first"),
        ImageContent(data=data, mime_type="image/png"),
        AudioContent(data=data, mime_type="audio/wav"),
        EmbeddedResource(resource=TextResourceContents(uri="file:///a.txt", text="of a file")),
        EmbeddedResource(resource=BlobResourceContents(uri="file:///b.bin", blob=data, mime_type="x/y")),
        ResourceLink(uri="file:///c.txt", name="c"),
        TextContent(text="last"),
    ]


async def slow(marks: Path) -> None:
    (marks / "begun").touch()
    try:
        await asyncio.sleep(600)
    except BaseException:
        (marks / "cancelled").touch()
        raise


async def main() -> None:
    async with stdio_server() as (read, write):
        server = Server("test", on_list_tools=list_tools, on_call_tool=call_tool)
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
