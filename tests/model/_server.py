from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest

from codex_actors.errors import ModelError
from codex_actors.model.provider import Completed, ModelEvent, Prompt
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.model.responses import ResponsesModel
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message

HANG = "hang"  # send nothing more, until the client closes
CUT = "cut"  # reset the connection

Answer: TypeAlias = bytes | Sequence[bytes | str | asyncio.Event]
"""Bytes to send, or several steps: bytes, HANG, CUT, or an event to wait for."""

PROMPT = Prompt(
    thread_id=ThreadId("0193b5b8-0000-7000-8000-000000000001"),
    model="m",
    instructions=None,
    input=(Message(role="user", content=(InputText(text="Hello."),)),),
    tools=(),
    parallel_tool_calls=True,
    output_schema=None,
)
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
CALL = {"type": "function_call", "id": "fc_1", "name": "look", "arguments": "{}", "call_id": "c1"}
NO_RETRY = {"request_max_retries": 0, "stream_max_retries": 0}
USAGE = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def done(item: dict[str, Any] = MESSAGE) -> bytes:
    return event("response.output_item.done", item=item)


ADDED = event("response.output_item.added", item={**MESSAGE, "content": []})
DELTA = event("response.output_text.delta", delta="hi")
COMPLETED = event("response.completed", response={"id": "resp_1", "usage": USAGE})
BODY = ADDED + DELTA + done() + COMPLETED
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def full(body: bytes, status: int = 200, kind: str = "text/event-stream", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> bytes:
    body = {"error": {"message": message, "type": "some_type", "code": code}}
    return full(json.dumps(body).encode(), status, "application/json", **headers)


OK = full(BODY)


@dataclass(frozen=True)
class Request:
    line: str
    headers: dict[str, str]
    body: Any


class Server:
    """Gives one answer to each request, in order, and the last one to all that come later."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()
        self.all_closed = asyncio.Event()
        self.all_closed.set()
        self.asked = asyncio.Event()
        self.base_url = ""

    def answer_with(self, answer: Answer) -> None:
        self._answers = [answer]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        self.all_closed.clear()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in head[1:] if line)
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(Request(head[0], headers, json.loads(raw) if raw else None))
                self.asked.set()
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                for step in (answer,) if isinstance(answer, bytes) else answer:
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    elif isinstance(step, asyncio.Event):
                        await step.wait()
                    elif step == HANG:
                        await reader.read()
                        return
                    else:
                        writer.transport.abort()
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.open.discard(writer)
            if not self.open:
                self.all_closed.set()


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    """At the end no connection may be left: whoever asks must have closed its own by then."""
    server = Server(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.base_url = "http://{}:{}/v1".format(*listener.sockets[0].getsockname())
    try:
        yield server
        async with asyncio.timeout(10):
            await server.all_closed.wait()
    finally:
        listener.close()


def model_of(base_url: str, auth_manager: Any = None, **settings: Any) -> ResponsesModel:
    """A model whose retries do not wait."""
    info = ModelProviderInfo(name="local", base_url=base_url, retry_base_s=0.0001)
    return ResponsesModel(replace(info, **settings), auth_manager)


async def events_of(model: ResponsesModel, prompt: Prompt = PROMPT) -> list[ModelEvent]:
    async with asyncio.timeout(20):
        return [event async for event in model.stream(prompt)]


def ask(*answers: Answer, prompt: Prompt = PROMPT, **settings: Any) -> tuple[list[ModelEvent], Server]:
    """The events of one stream, and the server when all is closed."""

    async def main() -> tuple[list[ModelEvent], Server]:
        async with serving(*answers) as server:
            model = model_of(server.base_url, **settings)
            async with model.open():
                return await events_of(model, prompt), server

    return asyncio.run(main())


async def read_into(events: list[ModelEvent], model: ResponsesModel) -> None:
    async with asyncio.timeout(20):
        async for each in model.stream(PROMPT):
            events.append(each)


def fail(*answers: Answer, **settings: Any) -> tuple[list[ModelEvent], ModelError, int]:
    """What came before the failure, the failure, and how many requests it took; the model then answers."""

    async def main() -> tuple[list[ModelEvent], ModelError, int]:
        events: list[ModelEvent] = []
        async with serving(*answers) as server:
            model = model_of(server.base_url, **settings)
            async with model.open():
                with pytest.raises(ModelError) as caught:
                    await read_into(events, model)
                requests = len(server.requests)
                server.answer_with(OK)
                assert type((await events_of(model))[-1]) is Completed
        return events, caught.value, requests

    return asyncio.run(main())


def failed(code: str | None, message: str = "because") -> bytes:
    return full(event("response.failed", response={"id": "r", "error": {"code": code, "message": message}}))
