"""A model's server on the loopback that says one word to each request, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

ANSWER = "Noted."

_MOST_BYTES = 1 << 30


class ModelStandIn:
    """Serves while it is entered. `inputs` has the `input` of each request for a response, in order; `port` is where."""

    def __init__(self) -> None:
        self.inputs: list[list[Any]] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # no request: whoever it is learns that from the closed connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *fields = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await reader.readexactly(min(int(headers.get("content-length", "0")), _MOST_BYTES))
        path = target.partition("?")[0]
        if method == "POST" and path.endswith("/responses"):
            self.inputs.append(json.loads(body)["input"])
            kind, answer = "text/event-stream", _stream(len(self.inputs))
        else:
            kind, answer = "application/json", b'{"object":"list","data":[],"models":[]}'
        lines = ("HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {len(answer)}", "Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode() + answer)
        await writer.drain()


def _stream(number: int) -> bytes:
    """The events of a whole response."""
    response = {"id": f"resp_{number}"}
    part = {"type": "output_text", "text": ANSWER, "annotations": []}
    item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None}
    events = (
        {"type": "response.created", "response": response},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "output": [], "usage": {**usage, "total_tokens": 2}}},
    )
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)
