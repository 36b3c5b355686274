"""The embedded default model: answers from Python functions, lists or a script file, with gates that a test can hold."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError
from pydantic_core import from_json

from codex_actors.errors import InvalidRequest, StreamError
from codex_actors.model.provider import (
    MODEL_EVENTS,
    Completed,
    ItemAdded,
    ItemDone,
    ModelEvent,
    Prompt,
    ReasoningDelta,
    TextDelta,
    close_stream,
)
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import (
    RESPONSE_ITEM,
    RESPONSE_ITEMS,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Message,
    OutputText,
    Reasoning,
    ResponseItem,
)
from codex_actors.protocol.ops import describe
from codex_actors.protocol.wire import made

Answer: TypeAlias = str | Sequence[ResponseItem] | AsyncIterator[ModelEvent]
"""Text, a list or tuple of items, or the events themselves (which then include the `Completed`)."""

AnswerFunction: TypeAlias = Callable[[Prompt], Answer | Awaitable[Answer]]
"""A sync, async or async generator function. Runs in: the manager's loop, which it must not block."""

Script: TypeAlias = AnswerFunction | Sequence[str | Sequence[ResponseItem] | AnswerFunction] | Path
"""See `ScriptedModel`."""

Place: TypeAlias = Literal["start", "deltas"]

_BEGUN = ItemAdded(made(Message, role="assistant"))


class ScriptedModel:
    """A model whose answers are given beforehand; nothing leaves the process.

    `answer` is one of: a function of the prompt; a list used up in order, one element per request (text, a list of
    items, or such a function); the `Path` of a script file; None, which answers `echo: <last user text>`. A script file
    is JSONL, one answer per line: a JSON string, or a list of response item objects. It is read and checked here, at
    construction, never on a loop; blank lines are skipped.

    Text is streamed as a message in deltas of at most `delta_chars` characters (None: one delta). A request beyond the
    end of a list or file is a `StreamError`. An answer of any other type is a `TypeError` of its turn.

    One model may serve several managers. It pickles if its answers do: the copy has the answers that are left, and no
    gates.

    Attributes:
        name: The provider's name, and its only preset.
        requests: How many streams have begun.
        prompts: The prompts of those, in order; stays empty unless `keep_prompts`.

    Args:
        usage: What each `Completed` carries; None estimates it, at 4 characters a token. The input counts the
            instructions and the newest 4 items, scaled to all items: the price of a request must not grow with the
            history. Tools and images count nothing.
        gate: One that is held from the start; see `hold`.

    Raises:
        InvalidRequest: `answer` or the script file is not as described; the text names the element or the line.
    """

    def __init__(
        self,
        answer: Script | None = None,
        *,
        name: str = "scripted",
        usage: TokenUsage | None = None,
        delta_chars: int | None = 64,
        keep_prompts: bool = False,
        gate: Gate | None = None,
    ) -> None:
        if not (delta_chars is None or (isinstance(delta_chars, int) and delta_chars > 0)):
            raise InvalidRequest(f"ScriptedModel.delta_chars: {delta_chars!r} is not a whole number from 1, or None")
        self.name = name
        self.requests = 0
        self.prompts: list[Prompt] = []
        self._keep_prompts = keep_prompts
        self._delta_chars = delta_chars
        self._completed = None if usage is None else Completed(usage)
        self._gates: tuple[Gate, ...] = () if gate is None else (gate,)
        self._function: AnswerFunction | None = None
        self._script: deque[Any] = deque()  # popleft is atomic: managers on other OS threads may share the script
        if answer is None:
            self._function = _echo
        elif callable(answer):
            self._function = answer
        else:
            self._script.extend(_read_script(answer) if isinstance(answer, Path) else _checked_list(answer))
        self._script_length = len(self._script)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gates": ()}

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Nothing to open."""
        return nullcontext(self)

    def hold(self, after: Place = "start") -> Gate:
        """Close a gate in front of all streams that come to it, running ones included, until `gate.open()`.

        `after="start"` stands in front of a stream's first event (and of the call of the answer function); `"deltas"`
        in front of each `ItemDone`, so that the item's deltas are out.
        """
        gate = Gate(after)
        self._gates = (*(held for held in self._gates if not held.is_open), gate)
        return gate

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        """The next answer, as events."""
        self.requests += 1
        if self._keep_prompts:
            self.prompts.append(prompt)
        answer: Any = self._next_answer() if self._function is None else self._function
        if self._gates:
            await self._pass("start")
        if callable(answer):
            answer = answer(prompt)
            if isawaitable(answer):
                answer = await answer
        if hasattr(answer, "__aiter__"):
            try:
                async for event in answer:
                    if type(event) not in MODEL_EVENTS:
                        raise TypeError(f"the answer of model {self.name!r} yielded {_kind(event)}, not a model event")
                    if self._gates and isinstance(event, ItemDone):
                        await self._pass("deltas")
                    yield event
            finally:
                await close_stream(answer)
            return
        events, chars = self._events_of(answer)
        for event in events:
            if self._gates and isinstance(event, ItemDone):
                await self._pass("deltas")
            yield event
        yield self._completed or Completed(_estimate(prompt, chars))

    def _next_answer(self) -> Any:
        try:
            return self._script.popleft()
        except IndexError:
            raise StreamError(f"the script has no answer left (used {self._script_length})") from None

    def _events_of(self, answer: Any) -> tuple[Iterable[ModelEvent], int]:
        if isinstance(answer, str):
            message = made(Message, role="assistant", content=(made(OutputText, text=answer),))
            return _streamed(message, answer, TextDelta, self._delta_chars), len(answer)
        if isinstance(answer, list | tuple):
            for item in answer:
                if not isinstance(item, RESPONSE_ITEMS):
                    raise TypeError(f"the answer of model {self.name!r} holds {_kind(item)}, not a response item")
            return _events(answer, self._delta_chars), sum(map(_chars, answer))
        raise TypeError(
            f"the answer of model {self.name!r} is {_kind(answer)}; "
            "expected text, a list of response items, or an async iterator of model events"
        )

    async def _pass(self, place: Place) -> None:
        for gate in self._gates:
            if gate.after == place:
                await gate.pass_through()


class Gate:
    """A place where streams wait, without blocking their loop, until a test opens it. Made by `ScriptedModel.hold`.

    Attributes:
        after: The place; see `ScriptedModel.hold`.
        reached: Set when the first stream has come to the gate; any OS thread (but the loop's) may `wait(timeout)`.
    """

    def __init__(self, after: Place = "start") -> None:
        if after not in ("start", "deltas"):
            raise InvalidRequest(f"Gate.after: {after!r} is not start or deltas")
        self.after: Place = after
        self.reached = _LoopEvent()
        self._opened = _LoopEvent()

    @property
    def is_open(self) -> bool:
        """Whether streams pass; once open, a gate stays open."""
        return self._opened.is_set()

    def open(self) -> None:
        """Let all pass, now and later. May be called from any OS thread, also twice."""
        self._opened.set()

    async def wait_reached(self, timeout_s: float = 10.0) -> None:
        """Wait on a loop until a stream has come to the gate.

        Raises:
            TimeoutError: none came within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            await self.reached.wait_on_loop()

    async def pass_through(self) -> None:
        """What a stream does at the gate. Runs in: the loop of the stream's manager."""
        if not self.is_open:
            self.reached.set()
            await self._opened.wait_on_loop()


class _LoopEvent(threading.Event):
    """An event that tasks of any number of loops can wait for as well."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    def set(self) -> None:
        super().set()
        with suppress(IndexError):
            while True:
                loop, future = self._waiters.popleft()
                with suppress(RuntimeError):  # that loop is closed, and nobody waits on it any more
                    loop.call_soon_threadsafe(_wake, future)

    async def wait_on_loop(self) -> None:
        if self.is_set():
            return
        loop = asyncio.get_running_loop()
        waiter = (loop, loop.create_future())
        self._waiters.append(waiter)
        try:
            # Looked at again: a `set` on another OS thread may have come between the first look and the append.
            if not self.is_set():
                await waiter[1]
        finally:
            with suppress(ValueError):
                self._waiters.remove(waiter)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _echo(prompt: Prompt) -> str:
    for item in reversed(prompt.input):
        if isinstance(item, Message) and item.role == "user":
            return f"echo: {item.text}"
    return "echo: "


def _events(items: Sequence[ResponseItem], delta_chars: int | None) -> Iterator[ModelEvent]:
    for item in items:
        if isinstance(item, Message):
            yield from _streamed(item, item.text, TextDelta, delta_chars)
        elif isinstance(item, Reasoning):
            yield from _streamed(item, item.text, ReasoningDelta, delta_chars)
        else:
            yield ItemDone(item)


def _streamed(
    item: Message | Reasoning, text: str, delta: type[TextDelta | ReasoningDelta], size: int | None
) -> Iterator[ModelEvent]:
    if isinstance(item, Reasoning):
        yield ItemAdded(Reasoning(id=item.id))
    else:
        plain = item.id is None and item.role == "assistant"
        yield _BEGUN if plain else ItemAdded(Message(id=item.id, role=item.role))
    if size is None or len(text) <= size:
        if text:
            yield delta(text)
    else:
        for start in range(0, len(text), size):
            yield delta(text[start : start + size])
    yield ItemDone(item)


def _estimate(prompt: Prompt, output_chars: int) -> TokenUsage:
    newest = prompt.input[-4:]
    chars = sum(map(_chars, newest)) * len(prompt.input) // (len(newest) or 1) + len(prompt.instructions or "")
    read, written = (chars + 3) // 4, (output_chars + 3) // 4
    return made(TokenUsage, input_tokens=read, output_tokens=written, total_tokens=read + written)


def _chars(item: ResponseItem) -> int:
    match item:
        case Message():
            return sum([len(part.text) for part in item.content if type(part) is OutputText or type(part) is InputText])
        case Reasoning():
            return len(item.text)
        case FunctionCall():
            return len(item.name) + len(item.arguments)
        case CustomToolCall():
            return len(item.name) + len(item.input)
        case FunctionCallOutput(output=str() as output) | CustomToolCallOutput(output=str() as output):
            return len(output)
        case _:
            return 0


def _checked_list(answers: Any) -> Iterator[Any]:
    if not isinstance(answers, list | tuple):
        raise InvalidRequest(
            f"ScriptedModel: {_kind(answers)} is no script; "
            "expected a function of the prompt, a list of answers, or the pathlib.Path of a script file"
        )
    for index, answer in enumerate(answers):
        if not (isinstance(answer, str) or callable(answer)):
            if not isinstance(answer, list | tuple):
                raise InvalidRequest(
                    f"ScriptedModel: answer {index} is {_kind(answer)}; "
                    "expected text, a list of response items, or a function of the prompt"
                )
            for item in answer:
                if not isinstance(item, RESPONSE_ITEMS):
                    raise InvalidRequest(f"ScriptedModel: answer {index} holds {_kind(item)}, not a response item")
        yield answer


def _read_script(path: Path) -> Iterator[Any]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the script {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parse_answer(line, f"the script {path}, line {number}")


def _parse_answer(line: str, where: str) -> str | tuple[ResponseItem, ...]:
    try:
        value = from_json(line)
    except ValueError as error:
        raise InvalidRequest(f"{where} is not JSON: {error}") from None
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}: expected a string or a list of response items, not {_kind(value)}")
    items = []
    for index, raw in enumerate(value):
        if not (isinstance(raw, dict) and isinstance(raw.get("type"), str)):
            raise InvalidRequest(f"{where}: item {index} is no object with a type")
        try:
            items.append(RESPONSE_ITEM.validate_python(raw))
        except ValidationError as error:
            raise InvalidRequest(f"{where}: item {index}: {describe(error)}") from None
    return tuple(items)


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
