"""What a client asks of a thread.

Source: `codex-rs/protocol/src/protocol.rs`, `Op` and `Submission`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.items import InputItem, TextInput
from codex_actors.protocol.wire import LAZY, Wire, made


class _Op(Wire):
    """Unlike what is read from files, an op with an unknown field is refused: the client meant something by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _json(value: dict[str, Any]) -> dict[str, Any]:
    to_json(value)  # a ValueError where it is none
    return value


class _Input(_Op):
    items: tuple[InputItem, ...] = Field(min_length=1)
    final_output_json_schema: Annotated[dict[str, Any], AfterValidator(_json)] | None = None


def _with_items(text: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, where text stands for an item."""
    if text is not None:
        fields["items"] = (TextInput(text=text),)
    elif isinstance(items := fields.get("items"), list | tuple):
        fields["items"] = tuple(TextInput(text=item) if isinstance(item, str) else item for item in items)
    return fields


class UserInput(_Input):
    """Input for the model: `UserInput("text")`, `UserInput(items=[...])` or the wire form.

    `items` is never empty. `final_output_json_schema` asks the model for JSON of that shape as its last message.
    """

    type: Literal["user_input"] = "user_input"

    def __init__(self, text: str | None = None, /, **fields: Any) -> None:
        super().__init__(**_with_items(text, fields))


class Interrupt(_Op):
    """Abort what was sent before; on an idle thread it does nothing."""

    type: Literal["interrupt"] = "interrupt"


class Shutdown(_Op):
    """End the thread, behind what it had accepted; a running turn is aborted."""

    type: Literal["shutdown"] = "shutdown"


class ThreadRollback(_Op):
    """Drop the last `num_turns` user turns from the history (the file keeps its lines)."""

    type: Literal["thread_rollback"] = "thread_rollback"
    num_turns: int = Field(ge=0)


def _absolute(value: str) -> str:
    if not PurePath(value).is_absolute():
        raise ValueError("the path is not absolute")
    return value


def _unsandboxed(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("type") != "danger-full-access":
        raise ValueError("nothing is sandboxed here: the only policy is {'type': 'danger-full-access'}")
    return value


_Cwd: TypeAlias = Annotated[str, AfterValidator(_absolute)]

ApprovalPolicy: TypeAlias = Literal["untrusted", "on-request", "never"]
"""When a tool asks before it acts: unless it is known to be harmless, when the model asks for it, or never."""

APPROVAL_POLICIES: tuple[ApprovalPolicy, ...] = get_args(ApprovalPolicy)
"""Strictest first."""

ReviewDecision: TypeAlias = Literal["approved", "approved_for_session", "denied", "abort"]
"""The answer to an approval request: once; for the same command for as long as the thread lives; no; no, and the turn is
interrupted. Source: `ReviewDecision`."""

Effort: TypeAlias = Annotated[str, Field(min_length=1)]
"""How long the model is to think: `none` `minimal` `low` `medium` `high` `xhigh`, or a word of the server's own."""

Summary: TypeAlias = Literal["auto", "concise", "detailed", "none"]
"""How the model is to sum up its reasoning."""


class Settings(_Op):
    """Settings of a thread. What is None, or not given, stays as it is; only for `effort` a None that is given means the
    server's own choice."""

    cwd: _Cwd | None = None
    approval_policy: ApprovalPolicy | None = None
    sandbox_policy: Annotated[dict[str, Any], AfterValidator(_unsandboxed)] | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    effort: Effort | None = None
    summary: Summary | None = None


class OverrideTurnContext(Settings):
    """Change the thread's settings from its next turn on; a running turn keeps its own."""

    type: Literal["override_turn_context"] = "override_turn_context"


class UserTurn(_Input, Settings):
    """Input with settings, which count from this turn on: an `override_turn_context` and a `user_input` in one, as
    `UserTurn("text", model="large")`.

    While a turn runs, the input joins it and the settings count from the next turn on.
    """

    type: Literal["user_turn"] = "user_turn"

    def __init__(self, text: str | None = None, /, **fields: Any) -> None:
        super().__init__(**_with_items(text, fields))


class ExecApproval(_Op):
    """Answer the approval request with this `id`. One that is not open (answered, timed out, its turn ended) is named in
    a `warning`."""

    type: Literal["exec_approval"] = "exec_approval"
    id: Annotated[str, Field(min_length=1)]
    decision: ReviewDecision


class Compact(_Op):
    """Replace the history by a summary that the model writes, in a turn of its own. A running turn is aborted first, with
    the reason `replaced`."""

    type: Literal["compact"] = "compact"


Op: TypeAlias = Annotated[
    UserInput | UserTurn | OverrideTurnContext | Interrupt | ExecApproval | Compact | Shutdown | ThreadRollback,
    Field(discriminator="type"),
]

_OP: TypeAdapter[Op] = TypeAdapter(Op, config=LAZY)


@dataclass(frozen=True, slots=True)
class Submission:
    """An op with its id."""

    id: str
    op: Op


def parse_op(value: Any) -> Op:
    """The op that `value` (an op, or its wire dict) stands for.

    Raises:
        InvalidRequest: it is not an op of this runtime; the text names the field.
    """
    if isinstance(value, _Op):
        return value  # type: ignore[return-value]
    try:
        return _OP.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"not an op: {describe(error)}") from None


def parse_input(value: Any) -> UserInput:
    """The user input that `value` (text, a sequence of texts and items, or a `UserInput`) stands for.

    Raises:
        InvalidRequest: it is neither; the text names the field.
    """
    if isinstance(value, UserInput):
        return value
    if type(value) is str:  # what most callers give, and nothing in it can be wrong
        return made(UserInput, items=(made(TextInput, text=value),))
    try:
        return UserInput(value) if isinstance(value, str) else UserInput(items=value)
    except ValidationError as error:
        raise InvalidRequest(f"not user input: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """A validation error in one line: `field: problem; field: problem`."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in error.errors()
    )
