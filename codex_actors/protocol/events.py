"""What a thread tells those who watch it.

Source: `codex-rs/protocol/src/protocol.rs`, `Event` and `EventMsg`; `items.rs`, `TurnItem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, Tag, TypeAdapter, field_serializer

from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputItem, Verbatim, tagged
from codex_actors.protocol.wire import LAZY, Wire, made


class TokenUsage(Wire):
    """Tokens, all counts. Source: `TokenUsage`."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return made(
            TokenUsage,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_output_tokens=self.reasoning_output_tokens + other.reasoning_output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


class TokenUsageInfo(Wire):
    """Usage of a thread: `total` is the sum over its requests, `last` the newest request."""

    total_token_usage: TokenUsage
    last_token_usage: TokenUsage
    model_context_window: int | None = None


class SessionConfigured(Wire):
    """The first event of every thread, under the id `INITIAL_SUBMIT_ID`.

    `initial_messages` are the events of a resumed or forked history, in order, or None for a new thread. `rollout_path`
    is where the thread will be kept, or None where it is not (no home, or `Config.ephemeral`).
    """

    type: Literal["session_configured"] = "session_configured"
    session_id: ThreadId
    forked_from_id: ThreadId | None = None
    model: str
    model_provider_id: str
    approval_policy: str
    sandbox_policy: dict[str, Any]
    cwd: str
    initial_messages: tuple[EventMsg, ...] | None = None
    rollout_path: str | None = None

    @field_serializer("initial_messages", mode="wrap")
    def _serialized(self, messages: Sequence[EventMsg] | None, serialize: SerializerFunctionWrapHandler) -> Any:
        # Those of a rollout are a sequence that parses its lines late, and of which Pydantic knows nothing.
        return serialize(None if messages is None else tuple(messages))


class TaskStarted(Wire):
    """A turn began."""

    type: Literal["task_started"] = "task_started"
    turn_id: str = ""
    model_context_window: int | None = None


class TaskComplete(Wire):
    """A turn ended by itself. `error` is the text of the `error` event before it, if it failed (read: any JSON).

    `time_to_first_token_ms` counts from the turn's begin to the first that the model said; None where it said nothing.
    """

    type: Literal["task_complete"] = "task_complete"
    turn_id: str = ""
    last_agent_message: str | None = None
    error: Any = None
    duration_ms: int | None = None
    time_to_first_token_ms: int | None = None


class TurnAborted(Wire):
    """A turn was ended from outside; `reason` is `interrupted`, `replaced` or `review_ended`."""

    type: Literal["turn_aborted"] = "turn_aborted"
    turn_id: str | None = None
    reason: str


class UserMessage(Wire):
    """User input was taken into the history; `images` are URLs."""

    type: Literal["user_message"] = "user_message"
    message: str
    images: tuple[str, ...] | None = None


class AgentMessage(Wire):
    """The model said something, whole."""

    type: Literal["agent_message"] = "agent_message"
    message: str


class AgentMessageDelta(Wire):
    """A piece of an agent message. Not kept."""

    type: Literal["agent_message_delta"] = "agent_message_delta"
    delta: str


class AgentReasoning(Wire):
    """The model's reasoning summary, whole."""

    type: Literal["agent_reasoning"] = "agent_reasoning"
    text: str


class AgentReasoningDelta(Wire):
    """A piece of a reasoning summary. Not kept."""

    type: Literal["agent_reasoning_delta"] = "agent_reasoning_delta"
    delta: str


class TokenCount(Wire):
    """Usage after a model request; `info` is None while nothing is known."""

    type: Literal["token_count"] = "token_count"
    info: TokenUsageInfo | None = None
    rate_limits: dict[str, Any] | None = None


class AgentText(Wire):
    """One part of an agent message item."""

    type: Literal["Text"] = "Text"
    text: str


class UserMessageItem(Wire):
    """A user message as a turn item."""

    type: Literal["UserMessage"] = "UserMessage"
    id: str
    content: tuple[InputItem, ...] = ()


class AgentMessageItem(Wire):
    """An agent message as a turn item."""

    type: Literal["AgentMessage"] = "AgentMessage"
    id: str
    content: tuple[AgentText, ...] = ()


class ReasoningItem(Wire):
    """Reasoning as a turn item."""

    type: Literal["Reasoning"] = "Reasoning"
    id: str
    summary_text: tuple[str, ...] = ()
    raw_content: tuple[str, ...] = ()


class FunctionCallItem(Wire):
    """A tool call as a turn item (ours: Codex's seed has events per kind of tool). `id` is the call id; `output` and
    `success` are None until the call is done."""

    type: Literal["FunctionCall"] = "FunctionCall"
    id: str
    name: str
    arguments: str
    output: str | None = None
    success: bool | None = None


TurnItem: TypeAlias = Annotated[
    Annotated[UserMessageItem | AgentMessageItem | ReasoningItem | FunctionCallItem, Field(discriminator="type")]
    | Verbatim,
    Field(union_mode="left_to_right"),
]
"""What `item_started` and `item_completed` speak of."""


class ItemStarted(Wire):
    """The model began an item."""

    type: Literal["item_started"] = "item_started"
    thread_id: ThreadId
    turn_id: str
    item: TurnItem


class ItemCompleted(Wire):
    """An item is whole."""

    type: Literal["item_completed"] = "item_completed"
    thread_id: ThreadId
    turn_id: str
    item: TurnItem


class Error(Wire):
    """Something failed; `codex_error_info` is Codex's class of the error, or None."""

    type: Literal["error"] = "error"
    message: str
    codex_error_info: Any = None


class Warning(Wire):
    """Something to know; the thread goes on."""

    type: Literal["warning"] = "warning"
    message: str


class StreamErrorEvent(Wire):
    """The model's stream broke and is tried again."""

    type: Literal["stream_error"] = "stream_error"
    message: str
    codex_error_info: Any = None
    additional_details: str | None = None


class ThreadRolledBack(Wire):
    """The last `num_turns` user turns no longer count."""

    type: Literal["thread_rolled_back"] = "thread_rolled_back"
    num_turns: int


class ContextCompacted(Wire):
    """The history was replaced by a summary."""

    type: Literal["context_compacted"] = "context_compacted"


class ExecCommandBegin(Wire):
    """A command of a tool call was started in `cwd`."""

    type: Literal["exec_command_begin"] = "exec_command_begin"
    call_id: str
    turn_id: str
    command: tuple[str, ...]
    cwd: str
    parsed_cmd: tuple[Any, ...] = ()


class ExecCommandOutputDelta(Wire):
    """A piece of what the command wrote; `chunk` is base64, `stream` is `stdout` or `stderr`. Not kept."""

    type: Literal["exec_command_output_delta"] = "exec_command_output_delta"
    call_id: str
    stream: Literal["stdout", "stderr"]
    chunk: str


class ExecCommandEnd(Wire):
    """The command has ended, or its turn was interrupted, which ends it (`exit_code` -1 then).

    `duration` is `{"secs": n, "nanos": n}`; the outputs are as much of it as was kept.
    """

    type: Literal["exec_command_end"] = "exec_command_end"
    call_id: str
    turn_id: str
    command: tuple[str, ...]
    cwd: str
    parsed_cmd: tuple[Any, ...] = ()
    stdout: str = ""
    stderr: str = ""
    aggregated_output: str = ""
    exit_code: int
    duration: dict[str, int]
    formatted_output: str = ""


class ExecApprovalRequest(Wire):
    """A tool call asks whether it may run `command` in `cwd`: answer with `exec_approval` and `approval_id`.

    `approval_id` (ours) names this one request; `call_id` the call that asks. Without an answer within `timeout_s` (ours)
    seconds it is denied. `reason` is the model's, or None.
    """

    type: Literal["exec_approval_request"] = "exec_approval_request"
    call_id: str
    approval_id: str
    turn_id: str
    command: tuple[str, ...]
    cwd: str
    reason: str | None = None
    parsed_cmd: tuple[Any, ...] = ()
    timeout_s: float


class ShutdownComplete(Wire):
    """The thread has ended. Nothing comes after it."""

    type: Literal["shutdown_complete"] = "shutdown_complete"


class Lagged(Wire):
    """Ours: this reader was too slow; `missed` events are not in its stream at this place."""

    type: Literal["lagged"] = "lagged"
    missed: int


class StreamOverrun(Wire):
    """Ours: the last item of a stream whose reader fell too far behind; the rest stands in the rollout.

    `missed` is 1 or more; `since` is the id of the event that no longer fitted.
    """

    type: Literal["stream_overrun"] = "stream_overrun"
    missed: int
    since: str


EventMsg: TypeAlias = Annotated[
    Annotated[SessionConfigured, Tag("session_configured")]
    | Annotated[TaskStarted, Tag("task_started")]
    | Annotated[TaskComplete, Tag("task_complete")]
    | Annotated[TurnAborted, Tag("turn_aborted")]
    | Annotated[UserMessage, Tag("user_message")]
    | Annotated[AgentMessage, Tag("agent_message")]
    | Annotated[AgentMessageDelta, Tag("agent_message_delta")]
    | Annotated[AgentReasoning, Tag("agent_reasoning")]
    | Annotated[AgentReasoningDelta, Tag("agent_reasoning_delta")]
    | Annotated[TokenCount, Tag("token_count")]
    | Annotated[ItemStarted, Tag("item_started")]
    | Annotated[ItemCompleted, Tag("item_completed")]
    | Annotated[Error, Tag("error")]
    | Annotated[Warning, Tag("warning")]
    | Annotated[StreamErrorEvent, Tag("stream_error")]
    | Annotated[ThreadRolledBack, Tag("thread_rolled_back")]
    | Annotated[ContextCompacted, Tag("context_compacted")]
    | Annotated[ExecCommandBegin, Tag("exec_command_begin")]
    | Annotated[ExecCommandOutputDelta, Tag("exec_command_output_delta")]
    | Annotated[ExecCommandEnd, Tag("exec_command_end")]
    | Annotated[ExecApprovalRequest, Tag("exec_approval_request")]
    | Annotated[ShutdownComplete, Tag("shutdown_complete")]
    | Annotated[Lagged, Tag("lagged")]
    | Annotated[StreamOverrun, Tag("stream_overrun")]
    | Annotated[Verbatim, Tag("verbatim")],
    tagged(
        frozenset(
            {
                "session_configured",
                "task_started",
                "task_complete",
                "turn_aborted",
                "user_message",
                "agent_message",
                "agent_message_delta",
                "agent_reasoning",
                "agent_reasoning_delta",
                "token_count",
                "item_started",
                "item_completed",
                "error",
                "warning",
                "stream_error",
                "thread_rolled_back",
                "context_compacted",
                "exec_command_begin",
                "exec_command_output_delta",
                "exec_command_end",
                "exec_approval_request",
                "shutdown_complete",
                "lagged",
                "stream_overrun",
            }
        )
    ),
]

EVENT_MSG: TypeAdapter[EventMsg] = TypeAdapter(EventMsg, config=LAZY)
"""Parses one message from JSON or a dict."""


@dataclass(frozen=True, slots=True)
class Event:
    """A message and the id of the submission that caused it (`""` before any)."""

    id: str
    msg: EventMsg
