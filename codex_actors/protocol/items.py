"""What a model reads and writes: the items of its history, and what a user puts in.

Source: `codex-rs/protocol/src/models.rs` (`ResponseItem`, `ContentItem`), `user_input.rs` (`UserInput`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_serializer, model_validator

from codex_actors.protocol.wire import LAZY, Wire, made


class InputText(Wire):
    """Text that goes to the model."""

    type: Literal["input_text"] = "input_text"
    text: str


class InputImage(Wire):
    """An image that goes to the model; `image_url` may be a data URL."""

    type: Literal["input_image"] = "input_image"
    image_url: str


class OutputText(Wire):
    """Text that the model wrote."""

    type: Literal["output_text"] = "output_text"
    text: str


class Verbatim(Wire):
    """Something of a type that is not known here. It is kept, written and sent exactly as it came."""

    raw: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _wrap(cls, value: Any) -> Any:
        if isinstance(value, dict) and not (value.keys() == {"raw"} and isinstance(value["raw"], dict)):
            return {"raw": value}
        return value

    @model_serializer(mode="plain")
    def _unwrap(self) -> dict[str, Any]:
        return self.raw

    @property
    def type(self) -> str:
        """The unknown wire tag, or "" where there is none."""
        return str(self.raw.get("type", ""))


def tagged(known: frozenset[str]) -> Discriminator:
    """A discriminator by `type` that sends unknown tags to `Verbatim`."""

    def tag_of(value: Any) -> str:
        if isinstance(value, Verbatim):
            return "verbatim"
        tag = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return tag if isinstance(tag, str) and tag in known else "verbatim"

    return Discriminator(tag_of)


ContentItem: TypeAlias = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[InputImage, Tag("input_image")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[Verbatim, Tag("verbatim")],
    tagged(frozenset({"input_text", "input_image", "output_text"})),
]
"""One part of a message."""


class Message(Wire):
    """A message; `role` is user, assistant, developer or system."""

    type: Literal["message"] = "message"
    id: str | None = None
    role: str
    content: tuple[ContentItem, ...] = ()

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.content if isinstance(part, InputText | OutputText))


class SummaryText(Wire):
    """One part of a reasoning summary."""

    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningText(Wire):
    """One part of raw reasoning; `type` is `reasoning_text` or `text`."""

    type: Literal["reasoning_text", "text"] = "reasoning_text"
    text: str


class Reasoning(Wire):
    """What the model thought; `encrypted_content` goes back to the model as it came."""

    type: Literal["reasoning"] = "reasoning"
    id: str | None = None
    summary: tuple[SummaryText, ...] = ()
    content: tuple[ReasoningText, ...] | None = None
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        """The summary parts, joined by blank lines."""
        return "\n\n".join(part.text for part in self.summary)


class LocalShellCall(Wire):
    """A shell call of the model's built-in tool."""

    type: Literal["local_shell_call"] = "local_shell_call"
    id: str | None = None
    call_id: str | None = None
    status: str
    action: dict[str, Any]


class FunctionCall(Wire):
    """The model asks for a tool; `arguments` is a JSON string, as the model wrote it."""

    type: Literal["function_call"] = "function_call"
    id: str | None = None
    name: str
    namespace: str | None = None
    arguments: str
    call_id: str


class FunctionCallOutput(Wire):
    """What the tool answered: text, or a list of `input_text` / `input_image`."""

    type: Literal["function_call_output"] = "function_call_output"
    id: str | None = None
    call_id: str
    output: str | tuple[ContentItem, ...]


class CustomToolCall(Wire):
    """The model asks for a tool with free-form `input`."""

    type: Literal["custom_tool_call"] = "custom_tool_call"
    id: str | None = None
    status: str | None = None
    call_id: str
    name: str
    input: str


class CustomToolCallOutput(Wire):
    """What a free-form tool answered."""

    type: Literal["custom_tool_call_output"] = "custom_tool_call_output"
    id: str | None = None
    call_id: str
    output: str | tuple[ContentItem, ...]


class WebSearchCall(Wire):
    """A search that the server ran for the model."""

    type: Literal["web_search_call"] = "web_search_call"
    id: str | None = None
    status: str | None = None
    action: dict[str, Any] | None = None


class GhostSnapshot(Wire):
    """A git snapshot that the seed era kept for undo; read, never made, never sent."""

    type: Literal["ghost_snapshot"] = "ghost_snapshot"
    ghost_commit: Any = None


class Compaction(Wire):
    """A server-side summary, opaque to us."""

    type: Literal["compaction", "compaction_summary"] = "compaction"
    encrypted_content: str


ResponseItem: TypeAlias = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[LocalShellCall, Tag("local_shell_call")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[CustomToolCall, Tag("custom_tool_call")]
    | Annotated[CustomToolCallOutput, Tag("custom_tool_call_output")]
    | Annotated[WebSearchCall, Tag("web_search_call")]
    | Annotated[GhostSnapshot, Tag("ghost_snapshot")]
    | Annotated[Compaction, Tag("compaction")]
    | Annotated[Compaction, Tag("compaction_summary")]
    | Annotated[Verbatim, Tag("verbatim")],
    tagged(
        frozenset(
            {
                "message",
                "reasoning",
                "local_shell_call",
                "function_call",
                "function_call_output",
                "custom_tool_call",
                "custom_tool_call_output",
                "web_search_call",
                "ghost_snapshot",
                "compaction",
                "compaction_summary",
            }
        )
    ),
]
"""One unit of model history. `wire_value(item)` is its wire JSON."""

RESPONSE_ITEMS: tuple[type, ...] = tuple({get_args(variant)[0] for variant in get_args(get_args(ResponseItem)[0])})
"""The classes of `ResponseItem`, for `isinstance`."""

ITEM_KINDS: dict[str, Any] = {
    tag: kind
    for kind in RESPONSE_ITEMS
    if kind is not Verbatim and issubclass(kind, Wire)
    for tag in get_args(kind.model_fields["type"].annotation)
}
"""The classes of `ResponseItem`, by wire tag."""

RESPONSE_ITEM: TypeAdapter[ResponseItem] = TypeAdapter(ResponseItem, config=LAZY)
"""Parses one item from JSON or a dict."""


class TextInput(Wire):
    """Text from the user."""

    type: Literal["text"] = "text"
    text: str


class ImageInput(Wire):
    """An image from the user, as a URL or data URL."""

    type: Literal["image"] = "image"
    image_url: str


InputItem: TypeAlias = Annotated[TextInput | ImageInput, Field(discriminator="type")]
"""One piece of user input. Codex's `local_image`, `skill` and `mention` are refused: nothing here could honour them."""


def user_message(items: tuple[InputItem, ...]) -> Message:
    """The history item for one user input. Source: `models.rs`, `From<Vec<UserInput>> for ResponseInputItem`."""
    return made(
        Message,
        role="user",
        content=tuple(
            made(InputText, text=item.text)
            if isinstance(item, TextInput)
            else made(InputImage, image_url=item.image_url)
            for item in items
        ),
    )
