"""Any `ModelProvider` behind a server of the Responses API on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, ModelProvider, Prompt, TextDelta
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import RESPONSE_ITEM

THREAD_ID = ThreadId("0193b5b8-0000-7000-8000-000000000001")


@dataclass
class Served:
    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)


def _prompt_of(body: dict[str, Any]) -> Prompt:
    items = tuple(RESPONSE_ITEM.validate_python(item) for item in body["input"])
    return Prompt(THREAD_ID, body["model"], body.get("instructions"), items, tuple(body["tools"]), True, None)


def _wire(event: ModelEvent) -> dict[str, Any]:
    match event:
        case ItemAdded(item=item):
            return {"type": "response.output_item.added", "item": item.model_dump(mode="json", exclude_none=True)}
        case TextDelta(delta=delta):
            return {"type": "response.output_text.delta", "delta": delta}
        case ItemDone(item=item):
            return {"type": "response.output_item.done", "item": item.model_dump(mode="json", exclude_none=True)}
        case Completed(usage=usage):
            counts = None if usage is None else usage.model_dump(mode="json")
            return {"type": "response.completed", "response": {"id": "resp_1", "usage": counts}}
    raise AssertionError(event)


@contextmanager
def served(model: ModelProvider) -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.requests.append(body)
            told.keys.add(self.headers["authorization"])
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            asyncio.run(self.answer(model.stream(_prompt_of(body))))

        async def answer(self, events: AsyncIterator[ModelEvent]) -> None:
            async for event in events:
                self.wfile.write(b"data: %s\n\n" % json.dumps(_wire(event)).encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """A client that was killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        told = Served(f"http://127.0.0.1:{server.server_port}/v1")
        loop = threading.Thread(target=server.serve_forever, args=(0.05,))
        loop.start()
        try:
            yield told
        finally:
            server.shutdown()
            loop.join()
