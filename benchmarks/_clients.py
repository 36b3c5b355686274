"""Who asks the server in `turns.py`: a bare aiohttp call, this runtime, the openai-agents SDK; and the server itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

from _lib import ROOT, NotHereError, check

sys.path.insert(0, str(ROOT))

import aiohttp
from pydantic_core import from_json

from codex_actors import CodexThread, Config, Prompt, ThreadManager
from codex_actors.model.provider import ModelEvent
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.model.responses import ResponsesModel
from codex_actors.model.wire_request import EncodedHistories, request_body
from codex_actors.protocol.events import AgentMessageDelta, Lagged, TaskComplete

MODEL = "mock-model"
HEADERS = {"content-type": "application/json", "accept": "text/event-stream", "accept-encoding": "identity"}
DELTA = "response.output_text.delta"

Turn: TypeAlias = Callable[[], Awaitable[int]]
"""Has one more turn of a conversation; returns the number of deltas that its reader got."""

Begin: TypeAlias = Callable[[], Awaitable[Turn]]
"""Begins a conversation."""


@contextmanager
def server(mock: Path, *, fast: bool) -> Iterator[str]:
    """The mock server in a process of its own; its base URL. `fast` answers all requests alike, without a look."""
    command = [sys.executable, str(mock), *(["--fast"] if fast else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            check(line, f"the mock server {mock} did not start")
            yield f"http://127.0.0.1:{json.loads(line)['port']}/v1"
        finally:
            process.terminate()


# --- a bare call -----------------------------------------------------------------------------------------------------


async def call(session: aiohttp.ClientSession, base_url: str, body: bytes, on_delta: Callable[[], Any]) -> int:
    """POST, and decode the JSON of each event until the answer is whole; how many deltas it had."""
    deltas, rest, last = 0, b"", ""
    async with session.post(f"{base_url}/responses", data=body, headers=HEADERS) as response:
        async for chunk in response.content.iter_any():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                last = from_json(event.partition(b"data: ")[2], cache_strings="keys")["type"]
                if last == DELTA:
                    deltas += 1
                    on_delta()
    check(last == "response.completed", f"a bare answer ended with {last!r}")
    return deltas


@asynccontextmanager
async def bare(base_url: str, bodies: list[bytes]) -> AsyncIterator[Begin]:
    """aiohttp alone; turn `n` of each conversation POSTs `bodies[n]`."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=256 * 1024) as session:

        async def begin() -> Turn:
            numbers = count()
            return lambda: call(session, base_url, bodies[next(numbers)], int)

        yield begin


# --- this runtime ----------------------------------------------------------------------------------------------------


class Recording(ResponsesModel):
    """Keeps the body of each request."""

    def __init__(self, info: ModelProviderInfo) -> None:
        super().__init__(info)
        self.bodies: list[bytes] = []

    def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        """As its base."""
        self.bodies.append(request_body(prompt, histories=EncodedHistories()))
        return super().stream(prompt)


def provider(base_url: str) -> ModelProviderInfo:
    """The mock server, which wants no key; what fails is not tried again."""
    return ModelProviderInfo(name="mock", base_url=base_url, request_max_retries=0, stream_max_retries=0)


def manager(base_url: str, home: Path, model: ResponsesModel | None = None) -> ThreadManager:
    """A manager with a home, its durability the default (flush)."""
    return ThreadManager(home, model=model or ResponsesModel(provider(base_url)))


async def bodies_of(base_url: str, home: Path, text: str, turns: int) -> list[bytes]:
    """What this runtime POSTs in a conversation of so many turns."""
    model = Recording(provider(base_url))
    async with manager(base_url, home, model) as threads:
        thread = (await threads.start_thread(Config(model=MODEL))).thread
        for _ in range(turns):
            (await thread.run(text)).raise_for_error()
    return model.bodies


async def read_turn(thread: CodexThread, text: str) -> int:
    """A turn with one reader of all its events; every delta of the answer is one event, none missed, none merged."""
    deltas: list[str] = []
    with thread.events() as stream:
        reply = thread.run(text)
        async for event in stream:
            if type(event.msg) is AgentMessageDelta:
                deltas.append(event.msg.delta)
            elif type(event.msg) is TaskComplete:
                break
            else:
                check(type(event.msg) is not Lagged, "the reader missed deltas")
    result = (await reply).raise_for_error()
    check("".join(deltas) == result.text, "the deltas are not the text")
    return len(deltas)


@asynccontextmanager
async def runtime(base_url: str, home: Path, text: str, *, is_read: bool = False) -> AsyncIterator[Begin]:
    """A `ThreadManager` with a home, and a `ResponsesModel`; `is_read`: a reader gets each event."""
    async with manager(base_url, home) as threads:

        async def begin() -> Turn:
            thread = (await threads.start_thread(Config(model=MODEL))).thread

            async def turn() -> int:
                if is_read:
                    return await read_turn(thread, text)
                check((await thread.run(text)).raise_for_error().text, "a turn without a text")
                return 0

            return turn

        yield begin


# --- the openai-agents SDK -------------------------------------------------------------------------------------------


@dataclass
class Conversation:
    """One conversation of the SDK: its history is handed on from turn to turn, and kept nowhere."""

    runner: Any
    agent: Any
    config: Any
    text: str
    history: list[Any]

    async def __call__(self) -> int:
        asked = [*self.history, {"role": "user", "content": self.text}]
        result = self.runner.run_streamed(self.agent, asked, run_config=self.config)
        deltas = 0
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == DELTA:
                deltas += 1
        check(result.final_output, "a turn without a text")
        self.history = result.to_input_list()
        return deltas


def _import_sdk() -> tuple[Any, Any]:
    folder = Path(__file__).resolve().parent  # whose agents.py is not the SDK
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != folder]
    if find_spec("agents") is None or find_spec("openai") is None:
        raise NotHereError("not installed: pip install openai-agents")
    return import_module("agents"), import_module("openai")


@asynccontextmanager
async def sdk(base_url: str, text: str) -> AsyncIterator[Begin]:
    """openai-agents on the Responses API, streamed, without tracing and without a session.

    Raises:
        NotHereError: it is not installed.
    """
    agents, openai = _import_sdk()
    # Over aiohttp as well, which is faster than its own default.
    client = openai.AsyncOpenAI(
        base_url=base_url, api_key="none", max_retries=0, http_client=openai.DefaultAioHttpClient()
    )
    async with client:
        model = agents.OpenAIResponsesModel(MODEL, client)
        config = agents.RunConfig(tracing_disabled=True)

        async def begin() -> Turn:
            return Conversation(agents.Runner, agents.Agent(name="bench", model=model), config, text, [])

        yield begin
