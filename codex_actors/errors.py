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
    │   ├── WriterConflict              somebody else writes it
    │   ├── LocksUnsupported            its folder has no locks, without which two writers cannot be kept apart
    │   └── RolloutUnavailable          the disk does not take its lines now; they wait, and are written when it does
    ├── McpServerError                  an MCP server could not be started; the threads can go on without its tools
    ├── ModelError                      a model, or its server, did not answer; `codex_error_info` is Codex's word for it
    │   ├── StreamError                 its stream ended before its answer was complete
    │   ├── ConnectionFailed            its server could not be reached, or not in time
    │   ├── UnexpectedStatus            its server answered with an HTTP status that no other class is for
    │   ├── InternalServerError         its server said that it is broken (HTTP 500)
    │   ├── ServerOverloaded            its server said that it has too much to do
    │   ├── RetryLimit                  it went on failing until the retries were spent
    │   ├── BadModelRequest             its server refused the request as wrong (HTTP 400)
    │   ├── MissingCredentials          there is no key to send; the text says where one is looked for
    │   ├── Unauthorized                its server refused the key (HTTP 401, 403)
    │   ├── UsageLimitReached           the account has used what it may, until `resets_at`
    │   ├── QuotaExceeded               the account has no credit, or not for this model
    │   └── ContextWindowExceeded       the request was longer than the model can read
    ├── NoActiveTurn                    `steer` of a thread that runs no turn
    ├── ExpectedTurnMismatch            `steer` of another turn than the one that runs
    ├── TurnFailed                      raised by `TurnResult.raise_for_error()`
    └── TurnInterrupted                 raised by `TurnResult.raise_for_error()`

Source: `codex-rs/core/src/error.rs`, `CodexErr`; the texts are Codex's where Codex has the case. An error is its fields:
`args` holds them, the text is built from them, so that errors copy and pickle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

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


class WriterConflict(RolloutError):
    """The rollout at `path` belongs to another writer.

    `owner` names it. `age` is for how many seconds it has been its writer, or None where nothing says so. `alive`: it still
    is; a writer that was taken over from is told of one that may have ended since.
    """

    def __init__(self, path: Path | str, owner: str, age: float | None, alive: bool) -> None:
        since = "" if age is None else f", for {age:.0f} s"
        what = f"{owner} writes this rollout{since}" if alive else f"{owner} has written this rollout meanwhile"
        super().__init__(path, f"{what}; follow it, fork it, or resume it with take_over=True")
        self.args = (path, owner, age, alive)
        self.owner = owner
        self.age = age
        self.alive = alive


class LocksUnsupported(RolloutError):
    """`path` is in a folder that has no locks (`flock`), as those of some network file systems have none."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, _NO_LOCKS)
        self.args = (path,)


_NO_LOCKS = (
    "no file can be locked here, so two writers of one thread could not be kept apart; use a folder of this machine, "
    'or ManagerConfig(single_writer="trust") where no other program writes these threads'
)


class McpServerError(CodexError):
    """The MCP server named `server` did not start; `reason` begins with a verb and says why."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(server, reason)
        self.server = server
        self.reason = reason

    def __str__(self) -> str:
        return f"the MCP server {self.server!r} {self.reason}"


class RolloutUnavailable(RolloutError):
    """The disk does not take the lines of the rollout at `path` now, for the reason `errno`.

    `waiting` lines (`waiting_bytes` in all) wait in memory, and the writer tries again by itself until they are there.
    `detail` is what the system said; None takes the text of `errno`. `is_taken_in` says whether what was asked for stays
    taken in (do not send it again), or was refused.
    """

    def __init__(
        self,
        path: Path | str,
        errno: int,
        waiting: int,
        waiting_bytes: int = 0,
        detail: str | None = None,
        is_taken_in: bool = True,
    ) -> None:
        super().__init__(path, f"cannot write the rollout ({detail or os.strerror(errno)})")
        self.args = (path, errno, waiting, waiting_bytes, detail, is_taken_in)
        self.errno = errno
        self.waiting = waiting
        self.waiting_bytes = waiting_bytes
        self.detail = detail
        self.is_taken_in = is_taken_in

    def __str__(self) -> str:
        fate = "they are written as soon as that is possible" if self.is_taken_in else "this was not taken in"
        return f"{super().__str__()}; {self.waiting} line(s) wait for it; {fate}"

    def refusal(self) -> RolloutUnavailable:
        """The same for something that was not taken in."""
        return RolloutUnavailable(
            self.path, self.errno, self.waiting, self.waiting_bytes, self.detail, is_taken_in=False
        )


_WITH_STATUS = frozenset(
    {
        "http_connection_failed",
        "response_stream_connection_failed",
        "response_stream_disconnected",
        "response_too_many_failed_attempts",
    }
)


class ModelError(CodexError):
    """The base of what a model provider raises when a model, or its server, did not answer."""

    error_word: ClassVar[str] = "other"
    """The class of the error on the wire. Source: `CodexErrorInfo`."""

    @property
    def codex_error_info(self) -> Any:
        """What the `error` event says of its class: the word, or for what befell a connection or stream
        `{word: {"http_status_code": int | null}}`."""
        if self.error_word in _WITH_STATUS:
            return {self.error_word: {"http_status_code": getattr(self, "status", None)}}
        return self.error_word


class StreamError(ModelError):
    """The model's stream ended before its answer was complete.

    `delay_s` is the pause the server asked for before a retry, or None.
    """

    retryable = True
    error_word = "response_stream_disconnected"

    def __init__(self, message: str, delay_s: float | None = None) -> None:
        super().__init__(message, delay_s)
        self.message = message
        self.delay_s = delay_s

    def __str__(self) -> str:
        return f"stream disconnected before completion: {self.message}"


class ConnectionFailed(ModelError):
    """The server at `host` could not be reached within the time-outs; `reason` says why."""

    retryable = True
    error_word = "http_connection_failed"

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(host, reason)
        self.host = host
        self.reason = reason

    def __str__(self) -> str:
        return f"connection to {self.host} failed: {self.reason}"


class UnexpectedStatus(ModelError):
    """The server answered with the HTTP status `status`.

    `body` is what it said (at most some thousand characters of it), `request_id` its name for the request, or None.
    """

    retryable = True
    error_word = "response_stream_connection_failed"

    def __init__(self, status: int, body: str, request_id: str | None = None) -> None:
        super().__init__(status, body, request_id)
        self.status = status
        self.body = body
        self.request_id = request_id

    def __str__(self) -> str:
        request_id = f", request id: {self.request_id}" if self.request_id else ""
        return f"unexpected status {self.status}: {self.body}{request_id}"


class InternalServerError(ModelError):
    """The server is broken (HTTP 500); `message` is what it said."""

    retryable = True
    error_word = "internal_server_error"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        why = f" ({self.message})" if self.message else ""
        return f"the model's server has an internal error{why}; try again later"


class ServerOverloaded(ModelError):
    """The server has too much to do."""

    error_word = "server_overloaded"

    def __str__(self) -> str:
        return "the model's server is overloaded; try again later, or another model"


class RetryLimit(ModelError):
    """The server went on answering with the HTTP status `status` until the retries were spent.

    `request_id` is its name for the last request, or None. `delay_s` is the pause that it asked for, or None.
    """

    error_word = "response_too_many_failed_attempts"

    def __init__(self, status: int, request_id: str | None = None, delay_s: float | None = None) -> None:
        super().__init__(status, request_id, delay_s)
        self.status = status
        self.request_id = request_id
        self.delay_s = delay_s

    def __str__(self) -> str:
        request_id = f", request id: {self.request_id}" if self.request_id else ""
        wait = "" if self.delay_s is None else f"; the server asks to wait {self.delay_s:g} s"
        return f"exceeded retry limit, last status: {self.status}{request_id}{wait}"


class BadModelRequest(ModelError):
    """The server refused the request as wrong; `message` is what it said. Source: `CodexErr::InvalidRequest`."""

    error_word = "bad_request"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"the model's server refused the request: {self.message}"


class MissingCredentials(ModelError):
    """There is nothing to authorise a request with; `message` says what was looked for and what to do."""

    error_word = "unauthorized"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Unauthorized(ModelError):
    """The server refused the credentials with the HTTP status `status`; `message` is what it said, without them."""

    error_word = "unauthorized"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"the model's server refused the credentials (status {self.status}): {self.message}"


class UsageLimitReached(ModelError):
    """The account has used what it may. `resets_at` is when it may go on, in seconds since 1970, or None."""

    error_word = "usage_limit_exceeded"

    def __init__(self, message: str, resets_at: float | None = None) -> None:
        super().__init__(message, resets_at)
        self.message = message
        self.resets_at = resets_at

    def __str__(self) -> str:
        return f"usage limit reached: {self.message}"


class QuotaExceeded(ModelError):
    """The account has no credit, or its plan does not hold this model; `message` is what the server said."""

    error_word = "usage_limit_exceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"quota exceeded, check plan and billing: {self.message}"


class ContextWindowExceeded(ModelError):
    """The request was longer than the model can read."""

    error_word = "context_window_exceeded"

    def __str__(self) -> str:
        return (
            "the history is longer than the model's context window; compact it, roll turns back, or start a new thread"
        )


class NoActiveTurn(CodexError):
    """The thread runs no turn that the input could join. It was not taken in. Source: `SteerInputError::NoActiveTurn`."""

    def __str__(self) -> str:
        return "no active turn to steer; submit the input, and it begins one"


class ExpectedTurnMismatch(CodexError):
    """The turn `actual` runs, not `expected`. The input was not taken in. Source: `SteerInputError::ExpectedTurnMismatch`."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(expected, actual)
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"expected the active turn {self.expected}, but {self.actual} runs; the input was not taken in"


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
