"""The status of an agent, and how events change it.

Source: `codex-rs/core/src/agent/status.rs`, with the words of the newest Codex (`interrupted` included).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from codex_actors.protocol.events import (
    Error,
    EventMsg,
    ShutdownComplete,
    TaskComplete,
    TaskStarted,
    TurnAborted,
)
from codex_actors.protocol.ids import ThreadId

StatusWord: TypeAlias = Literal[
    "pending_init", "running", "interrupted", "completed", "errored", "shutdown", "not_found"
]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """A status: its wire word, and the last message (`completed`) or the error's text (`errored`).

    `str(status)` is the wire word; `to_wire()` the JSON value: a word, `{"completed": text|null}` or `{"errored": text}`.
    """

    word: StatusWord
    message: str | None = None

    PENDING_INIT: ClassVar[AgentStatus]
    RUNNING: ClassVar[AgentStatus]
    INTERRUPTED: ClassVar[AgentStatus]
    SHUTDOWN: ClassVar[AgentStatus]
    NOT_FOUND: ClassVar[AgentStatus]

    def __str__(self) -> str:
        return self.word

    @classmethod
    def completed(cls, message: str | None) -> AgentStatus:
        """The last turn ended with this message, or with none."""
        return cls("completed", message)

    @classmethod
    def errored(cls, message: str) -> AgentStatus:
        """The last turn failed with this text."""
        return cls("errored", message)

    def to_wire(self) -> str | dict[str, str | None]:
        """The JSON value that Codex writes."""
        return {self.word: self.message} if self.word in ("completed", "errored") else self.word

    @classmethod
    def from_wire(cls, value: Any) -> AgentStatus:
        """The status behind a JSON value.

        Raises:
            ValueError: it is none.
        """
        if isinstance(value, AgentStatus):
            return value
        if isinstance(value, str) and value in _PLAIN:
            return _PLAIN[value]
        if isinstance(value, dict) and len(value) == 1:
            ((word, message),) = value.items()
            if word == "completed" and (message is None or isinstance(message, str)):
                return cls.completed(message)
            if word == "errored" and isinstance(message, str):
                return cls.errored(message)
        raise ValueError(f"not an agent status: {value!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.from_wire, serialization=core_schema.plain_serializer_function_ser_schema(cls.to_wire)
        )


EndReason: TypeAlias = Literal["shutdown", "crashed", "fenced"]
"""`fenced`: another writer has taken its rollout over, or a program that knows no locks of ours writes it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A thread's end, told once to everybody who watched, also to those who watch late.

    `message` says what crashed it, or who took it over; it is None after a shutdown.
    """

    thread_id: ThreadId
    reason: EndReason
    message: str | None = None


AgentStatus.PENDING_INIT = AgentStatus("pending_init")
AgentStatus.RUNNING = AgentStatus("running")
AgentStatus.INTERRUPTED = AgentStatus("interrupted")
AgentStatus.SHUTDOWN = AgentStatus("shutdown")
AgentStatus.NOT_FOUND = AgentStatus("not_found")

_PLAIN = {
    status.word: status
    for status in (
        AgentStatus.PENDING_INIT,
        AgentStatus.RUNNING,
        AgentStatus.INTERRUPTED,
        AgentStatus.SHUTDOWN,
        AgentStatus.NOT_FOUND,
    )
}


def status_after(msg: EventMsg) -> AgentStatus | None:
    """The status that `msg` leads to, or None where it changes nothing.

    Source: `agent_status_from_event`; a `task_complete` that carries an error stays `errored` (in Codex's seed era the
    error was overwritten by `completed(null)`).
    """
    match msg:
        case TaskStarted():
            return AgentStatus.RUNNING
        case TaskComplete(error=str() as message):
            return AgentStatus.errored(message)
        case TaskComplete():
            return AgentStatus.completed(msg.last_agent_message)
        case TurnAborted(reason="interrupted"):
            return AgentStatus.INTERRUPTED
        case TurnAborted():
            return AgentStatus.errored(msg.reason)
        case Error(codex_error_info="thread_rollback_failed"):
            return None
        case Error():
            return AgentStatus.errored(msg.message)
        case ShutdownComplete():
            return AgentStatus.SHUTDOWN
    return None


STATUS_EVENTS: frozenset[type] = frozenset({TaskStarted, TaskComplete, TurnAborted, Error, ShutdownComplete})
"""The classes that `status_after` can lead somewhere from."""


def is_final(status: AgentStatus) -> bool:
    """Whether nothing more comes without new input: everything but `pending_init` and `running`."""
    return status.word not in ("pending_init", "running")
