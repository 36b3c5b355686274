"""What a model is to a turn: a `Prompt` goes in, a stream of model events comes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import NoneType
from typing import Any, Protocol, TypeAlias, get_args, runtime_checkable

from codex_actors.errors import StreamError
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import RESPONSE_ITEMS, ResponseItem


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a model.

    Attributes:
        thread_id: Whose request it is; a server may use it as a cache key.
        model: The slug, never empty.
        instructions: The system prompt, or None.
        input: The whole history that the model must see, in order.
            `protocol.wire.wire_value(item)` is an item's wire JSON: of one that was read from a file or from a server, all
            that stood there, nulls, unknown fields and their order too.
        tools: Wire JSON, each `{"type": "function", "name", "description", "parameters", "strict": false}`.
        parallel_tool_calls: Whether one answer may hold several calls.
        output_schema: The JSON schema that the last message must fit, or None.
        reasoning_effort: How long to think (`none` `minimal` `low` `medium` `high` `xhigh`, or a word of the server's);
            None leaves it to the server.
        reasoning_summary: `auto`, `concise`, `detailed` or `none`.
        verbosity: `low`, `medium` or `high`; None leaves it to the server.
        subagent: What kind of agent asks, for servers that count them apart: `collab_spawn`, `compact`, or None.
    """

    thread_id: ThreadId
    model: str
    instructions: str | None
    input: tuple[ResponseItem, ...]
    tools: tuple[Mapping[str, Any], ...]
    parallel_tool_calls: bool
    output_schema: Mapping[str, Any] | None
    reasoning_effort: str | None = None
    reasoning_summary: str = "auto"
    verbosity: str | None = None
    subagent: str | None = None


@dataclass(frozen=True, slots=True)
class ItemAdded:
    """A message or reasoning begins; its content is still empty."""

    item: ResponseItem


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the message that was added last."""

    delta: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the reasoning summary that was added last."""

    delta: str


@dataclass(frozen=True, slots=True)
class ItemDone:
    """An item is whole. It alone carries content that counts; deltas are for watchers."""

    item: ResponseItem


@dataclass(frozen=True, slots=True)
class Completed:
    """The answer is whole. `usage` is that of this request, or None where the model does not say."""

    usage: TokenUsage | None
    response_id: str | None = None


@dataclass(frozen=True, slots=True)
class Retrying:
    """The stream broke and is tried again; what was streamed of unfinished items is void."""

    message: str


ModelEvent: TypeAlias = ItemAdded | TextDelta | ReasoningDelta | ItemDone | Completed | Retrying
"""What a model's stream yields. Source: `codex-rs/core/src/client_common.rs`, `ResponseEvent`; `Retrying` is ours."""

MODEL_EVENTS: frozenset[type] = frozenset(get_args(ModelEvent))
"""The classes of `ModelEvent`, for `isinstance`."""


@dataclass(frozen=True, slots=True)
class FetchedModels:
    """What a server offers, and its mark for this list (`etag`), or None where it gives none."""

    presets: tuple[ModelPreset, ...]
    etag: str | None


def check_event(event: Any) -> None:
    """Refuse what is no model event, or carries what it must not: nothing behind the turn would survive it.

    Raises:
        StreamError: it names what the model yielded.
    """
    kind = type(event).__name__
    wanted = _CARRIES.get(type(event))
    if wanted is None:
        raise StreamError(f"the model yielded a {kind}, which is no model event")
    name, classes = wanted
    value = getattr(event, name)
    if not isinstance(value, classes):
        raise StreamError(f"the model yielded a {kind} whose {name} is a {type(value).__name__}")


_CARRIES: dict[type, tuple[str, type | tuple[type, ...]]] = {
    TextDelta: ("delta", str),
    ReasoningDelta: ("delta", str),
    ItemAdded: ("item", RESPONSE_ITEMS),
    ItemDone: ("item", RESPONSE_ITEMS),
    Completed: ("usage", (TokenUsage, NoneType)),
    Retrying: ("message", str),
}


@runtime_checkable
class ModelProvider(Protocol):
    """Who answers. Both methods are called on the manager's loop and must not block it.

    A stream yields exactly one `Completed`, as its last event; one that ends without it is a `StreamError` of its
    turn. The turn closes every stream it began (`close_stream`), also one that it leaves in the middle.

    Two optional attributes are read by `provider_name` and `provider_presets`: `name`, a str, and `presets`, a sequence
    of `ModelPreset`.
    """

    def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        """The events of one answer, as they come. May be an async generator function.

        Raises:
            CodexError: while iterating; one that is `retryable` may be tried again.
        """
        ...

    def open(self) -> AbstractAsyncContextManager[Any]:
        """What the model needs while it is in use, such as connections.

        Each manager enters it on its own loop at first use and leaves it after its last thread; one model may serve
        several managers, so several may be open at once, on different loops.
        """
        ...


def provider_name(model: object) -> str:
    """The id of the provider: its attribute `name`, else its class's name in lower case."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) and name else type(model).__name__.lower()


def provider_presets(model: object) -> tuple[ModelPreset, ...]:
    """What the provider offers: its attribute `presets`, else one default preset named after it. Never empty."""
    presets = getattr(model, "presets", None)
    if presets:
        return tuple(presets)
    name = provider_name(model)
    return (ModelPreset(id=name, model=name, display_name=name, is_default=True),)


async def close_stream(stream: object) -> None:
    """Close `stream` if it can be closed; an iterator without `aclose` is left as it is."""
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()
