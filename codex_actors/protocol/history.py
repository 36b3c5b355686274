"""What is kept of a thread, and with what it begins.

Source: `codex-rs/protocol/src/protocol.rs`: `RolloutItem`, `SessionMeta`, `TurnContextItem`, `CompactedItem`,
`InitialHistory`, `SessionSource`, `SubAgentSource`; `openai_models.rs`: `ModelPreset`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, overload

from pydantic import Tag, TypeAdapter

from codex_actors.protocol.events import EventMsg, TokenUsageInfo
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import RESPONSE_ITEMS, InputItem, ResponseItem, Verbatim, tagged
from codex_actors.protocol.status import AgentStatus
from codex_actors.protocol.wire import LAZY, Wire


class SessionSource(StrEnum):
    """Who started a root thread; the value is the wire word."""

    CLI = "cli"
    VSCODE = "vscode"
    EXEC = "exec"
    MCP = "mcp"
    UNKNOWN = "unknown"


class SubAgentSource(Wire):
    """A thread that another thread spawned. `depth` counts from the root, which has 0."""

    parent_thread_id: ThreadId
    depth: int
    agent_path: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None


ThreadSource: TypeAlias = SessionSource | SubAgentSource
"""Where a thread comes from."""


class ModelPreset(Wire):
    """A model that a host may offer to its users. `model` is the slug to put into `Config.model`."""

    id: str
    model: str
    display_name: str
    description: str = ""
    is_default: bool = False


class SessionMeta(Wire):
    """The first line of a rollout. Both Codex versions need id, timestamp, cwd, originator and cli_version.

    `source` is a string that every Codex lists; the lineage of an agent stands in `parent_thread_id`, `depth`, `agent_*`.
    `forked_from_lines` (ours) is how many lines of its parent a fork begins with.
    """

    id: ThreadId
    timestamp: str
    cwd: str
    originator: str
    cli_version: str
    instructions: str | None = None
    source: Any = "vscode"
    model_provider: str | None = None
    forked_from_id: ThreadId | None = None
    forked_from_lines: int | None = None
    parent_thread_id: ThreadId | None = None
    depth: int | None = None
    agent_path: str | None = None
    agent_nickname: str | None = None
    agent_role: str | None = None
    thread_source: str | None = None
    history_mode: str | None = None


class TurnContextItem(Wire):
    """The settings under which a turn ran."""

    cwd: str
    approval_policy: str
    sandbox_policy: dict[str, Any]
    model: str
    effort: str | None = None
    summary: str = "auto"
    turn_id: str | None = None
    base_instructions: str | None = None
    user_instructions: str | None = None
    developer_instructions: str | None = None
    final_output_json_schema: Any = None


class Compacted(Wire):
    """A summary that stands for everything before it.

    With `window_number` and `resume_metadata` (which may be empty) Codex 0.169 goes on from `replacement_history`, as every
    other version does; without them a rollback before or behind it undoes the compaction there.
    """

    message: str
    replacement_history: tuple[ResponseItem, ...] | None = None
    window_number: int | None = None
    resume_metadata: dict[str, Any] | None = None


class InputAccepted(Wire):
    """Ours: an input that was accepted while a turn ran and is not yet an item of the history."""

    type: Literal["input_accepted"] = "input_accepted"
    submission_id: str
    items: tuple[InputItem, ...]
    final_output_json_schema: dict[str, Any] | None = None


class SessionMetaLine(Wire):
    """A `session_meta` line."""

    type: Literal["session_meta"] = "session_meta"
    payload: SessionMeta


class ResponseItemLine(Wire):
    """A `response_item` line; `submission_id` (ours) names the accepted input that this item is."""

    type: Literal["response_item"] = "response_item"
    payload: ResponseItem
    submission_id: str | None = None


class CompactedLine(Wire):
    """A `compacted` line."""

    type: Literal["compacted"] = "compacted"
    payload: Compacted


class TurnContextLine(Wire):
    """A `turn_context` line."""

    type: Literal["turn_context"] = "turn_context"
    payload: TurnContextItem


class EventMsgLine(Wire):
    """An `event_msg` line."""

    type: Literal["event_msg"] = "event_msg"
    payload: EventMsg


class InputAcceptedLine(Wire):
    """A `codex_actors` line: both Codex versions skip it."""

    type: Literal["codex_actors"] = "codex_actors"
    payload: InputAccepted


RolloutItem: TypeAlias = Annotated[
    Annotated[SessionMetaLine, Tag("session_meta")]
    | Annotated[ResponseItemLine, Tag("response_item")]
    | Annotated[CompactedLine, Tag("compacted")]
    | Annotated[TurnContextLine, Tag("turn_context")]
    | Annotated[EventMsgLine, Tag("event_msg")]
    | Annotated[InputAcceptedLine, Tag("codex_actors")]
    | Annotated[Verbatim, Tag("verbatim")],
    tagged(frozenset({"session_meta", "response_item", "compacted", "turn_context", "event_msg", "codex_actors"})),
]
"""One line of a rollout: `type` and `payload` (the line's `timestamp` belongs to the file)."""

ROLLOUT_ITEM: TypeAdapter[RolloutItem] = TypeAdapter(RolloutItem, config=LAZY)
"""Parses one line's object; its timestamp is kept as an unknown field."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file, or its first `end` bytes, that holds a part of a thread's lines."""

    path: Path
    end: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """What of a rollout still counts: what a thread that goes on with it needs, and no more.

    Attributes:
        meta: The file's own meta, or None.
        history: What the model must see; a call may lack its output.
        usage: The newest that was recorded, or None.
        is_counted: Whether that is of the history as it is: nothing was cut from it behind that.
        status: How the newest turn ended.
        context: The settings of the newest turn, or None.
        pending: The inputs that were accepted and never became an item.
        summaries: The texts of its compactions: no user said them.
        events: The events since the newest compaction, at most the last 8 MiB of them; None where there is no line at all.
        segments: Where the lines stand, in order; empty where they are in no file.
        next_ordinal: That of the next line of a paginated file; None for any other.
    """

    meta: SessionMeta | None
    history: tuple[ResponseItem, ...]
    usage: TokenUsageInfo | None
    is_counted: bool
    status: AgentStatus
    context: TurnContextItem | None
    pending: tuple[InputAccepted, ...]
    summaries: frozenset[str]
    events: Sequence[EventMsg] | None
    segments: tuple[Segment, ...] = ()
    next_ordinal: int | None = None


@dataclass(frozen=True, slots=True)
class New:
    """A thread begins with nothing."""

    def get_rollout_items(self) -> tuple[RolloutItem, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """A thread goes on under its own id and in its own file.

    `state` is what `history` comes to; where it is given, `history` may be empty.
    """

    conversation_id: ThreadId
    history: tuple[RolloutItem, ...]
    rollout_path: Path | None
    state: Replayed | None = None

    def get_rollout_items(self) -> tuple[RolloutItem, ...]:
        """The recorded lines, in order."""
        return self.history


class RawLines(Sequence[bytes]):
    """Lines as they stand in a file, with their newlines; the writer takes them in `runs`: pieces of one line or of many."""

    def __init__(self, runs: Iterable[bytes] = ()) -> None:
        self.runs = tuple(filter(None, runs))

    def __len__(self) -> int:
        return sum(run.count(b"\n") for run in self.runs)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return tuple(self)[index]

    def __iter__(self) -> Iterator[bytes]:
        return (line + b"\n" for run in self.runs for line in run[:-1].split(b"\n"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


@dataclass(frozen=True, slots=True)
class Forked:
    """A thread begins, under a fresh id, with what another one had recorded.

    `raw` are its lines as they are to stand in the file, and `state` is what they come to; `items` is empty then.
    `parent_lines` is how many of its parent's lines these were; None where that is not known.
    """

    items: tuple[RolloutItem, ...]
    raw: RawLines = field(default_factory=RawLines)
    state: Replayed | None = None
    parent_lines: int | None = None

    def get_rollout_items(self) -> tuple[RolloutItem, ...]:
        """The copied lines, in order."""
        return self.items


InitialHistory: TypeAlias = New | Resumed | Forked
"""With what a thread begins."""


def as_rollout_item(payload: Any) -> RolloutItem:
    """The line that carries `payload`; a line is returned as it is."""
    match payload:
        case SessionMeta():
            return SessionMetaLine(payload=payload)
        case TurnContextItem():
            return TurnContextLine(payload=payload)
        case Compacted():
            return CompactedLine(payload=payload)
        case InputAccepted():
            return InputAcceptedLine(payload=payload)
        case _ if isinstance(payload, _LINES):
            return payload  # type: ignore[no-any-return]
        case _ if isinstance(payload, _ITEMS):
            return ResponseItemLine(payload=payload)
        case _:
            return EventMsgLine(payload=payload)


def _members(union: Any) -> tuple[type, ...]:
    return tuple({get_args(member)[0] for member in get_args(get_args(union)[0])} - {Verbatim})


_LINES: tuple[Any, ...] = (*_members(RolloutItem), Verbatim)
_ITEMS: tuple[Any, ...] = tuple(kind for kind in RESPONSE_ITEMS if kind is not Verbatim)
