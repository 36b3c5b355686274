"""Every exception that codex_actors raises.

    CodexError
    ├── InvalidRequest                  the caller's argument is wrong; nothing was done
    ├── UnsupportedOperation            the call is not possible in this state (not entered, closed, dropped, forked)
    ├── ThreadNotFound                  no live thread has this id
    ├── AgentLimitReached               the tree has its `max_agents` running agents
    ├── AgentDepthLimitReached          the child would be deeper than `max_depth`
    ├── InputRefused                    64 other inputs went on waiting for the thread's turn; this one was not taken in
    ├── SessionConfiguredNotFirstEvent  a newborn thread did not begin with its first event
    ├── InternalAgentDied               the thread, or its loop, ended before it answered (also pykka.ActorDeadError)
    │   └── ActorNotFound               an ask to the ref of an actor that has ended
    ├── ReplyTimeout                    the waiter's deadline passed; the work goes on (also TimeoutError, pykka.Timeout)
    ├── ReplyCancelled                  somebody called `reply.cancel()`
    ├── DeadlockError                   a wait that would block the loop that has to answer it
    ├── RolloutError                    a rollout file could not be read or written
    ├── StreamError                     the model's stream ended before its answer was complete
    ├── TurnFailed                      raised by `TurnResult.raise_for_error()`
    └── TurnInterrupted                 raised by `TurnResult.raise_for_error()`

Source: `codex-rs/core/src/error.rs`, `CodexErr`; the texts are Codex's where Codex has the case. An error is its fields:
`args` holds them, the text is built from them, so that errors copy and pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pykka


class CodexError(Exception):
    """The base of the tree: `except CodexError` catches all that the runtime raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether the same request may succeed when it is sent again. Source: `CodexErr::is_retryable`."""


class InvalidRequest(CodexError):
    """An argument is wrong. `message` names it and says what is expected; nothing was done."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnsupportedOperation(CodexError):
    """The call is not possible here or now; `what` says why."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"unsupported operation: {self.what}"


class ThreadNotFound(CodexError):
    """No live thread has the id `thread_id`."""

    def __init__(self, thread_id: str) -> None:
        super().__init__(thread_id)
        self.thread_id = thread_id

    def __str__(self) -> str:
        return f"no thread with id: {self.thread_id}"


class AgentLimitReached(CodexError):
    """The tree already has `max_agents` agents at work (`used`)."""

    def __init__(self, max_agents: int, used: int) -> None:
        super().__init__(max_agents, used)
        self.max_agents = max_agents
        self.used = used

    def __str__(self) -> str:
        return (
            f"agent thread limit reached (max {self.max_agents}): {self.used} at work; "
            "wait for one to finish, shut one down, or raise Config.max_agents of the root"
        )


class AgentDepthLimitReached(CodexError):
    """A child at `depth` would be deeper than `max_depth` (the root has depth 0)."""

    def __init__(self, max_depth: int, depth: int) -> None:
        super().__init__(max_depth, depth)
        self.max_depth = max_depth
        self.depth = depth

    def __str__(self) -> str:
        return (
            f"agent depth limit reached (max {self.max_depth}): the child would be at depth {self.depth}; "
            "solve the task in this thread, or raise Config.max_depth of the root"
        )


class InputRefused(CodexError):
    """The thread went on having `waiting` inputs that wait for its turn. This one was not taken in."""

    retryable = True

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting)
        self.waiting = waiting

    def __str__(self) -> str:
        return f"input refused: {self.waiting} inputs wait for the running turn; send it again when that has moved on"


class SessionConfiguredNotFirstEvent(CodexError):
    """A newborn thread said something else before `session_configured`; it was taken down."""

    def __str__(self) -> str:
        return "session configured event was not the first event in the stream"


class InternalAgentDied(CodexError, pykka.ActorDeadError):
    """The thread, or the loop that runs it, ended before it answered."""

    retryable = True

    def __str__(self) -> str:
        why = f" ({self.args[0]})" if self.args else ""
        return f"internal error; agent loop died unexpectedly{why}"


class ActorNotFound(InternalAgentDied):
    """The actor behind a ref has ended; the text is pykka's."""

    def __str__(self) -> str:
        return f"{self.args[0]} not found"


class ReplyTimeout(CodexError, TimeoutError, pykka.Timeout):
    """The waiter's deadline of `timeout_s` seconds passed. The work goes on; the same reply may be waited for again."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no reply within {self.timeout_s:g} s; the work goes on and the reply can be waited for again"


class ReplyCancelled(CodexError):
    """The reply was cancelled with `reply.cancel()` before it was answered."""

    def __str__(self) -> str:
        return "the reply was cancelled"


class DeadlockError(CodexError):
    """The wait would block the OS thread of the loop that has to answer it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return (
            f"{self.what} would block the event loop that has to answer it; use `await` (or `async for`) on the "
            "manager's own loop, or make the blocking call from another OS thread"
        )


class RolloutError(CodexError):
    """The rollout at `path` could not be read or written; `reason` says why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {self.path}"


class StreamError(CodexError):
    """The model's stream ended before its answer was complete.

    `delay_s` is the pause the server asked for before a retry, or None.
    """

    retryable = True

    def __init__(self, message: str, delay_s: float | None = None) -> None:
        super().__init__(message, delay_s)
        self.message = message
        self.delay_s = delay_s

    def __str__(self) -> str:
        return f"stream disconnected before completion: {self.message}"


class TurnFailed(CodexError):
    """The turn `turn_id` ended with an error; `message` is the text of its `error` event."""

    def __init__(self, turn_id: str, message: str) -> None:
        super().__init__(turn_id, message)
        self.turn_id = turn_id
        self.message = message

    def __str__(self) -> str:
        return f"turn {self.turn_id} failed: {self.message}"


class TurnInterrupted(CodexError):
    """The turn `turn_id` was aborted; `reason` is Codex's word (`interrupted`, `replaced`, …)."""

    def __init__(self, turn_id: str, reason: str) -> None:
        super().__init__(turn_id, reason)
        self.turn_id = turn_id
        self.reason = reason

    def __str__(self) -> str:
        return f"turn {self.turn_id} was aborted: {self.reason}"
