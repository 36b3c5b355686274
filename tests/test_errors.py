from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
import pytest

from codex_actors import errors
from codex_actors.errors import (
    ActorNotFound,
    AgentDepthLimitReached,
    AgentLimitReached,
    BadModelRequest,
    CodexError,
    ConnectionFailed,
    ContextWindowExceeded,
    DeadlockError,
    ExpectedTurnMismatch,
    InputRefused,
    InternalAgentDied,
    InternalServerError,
    InvalidRequest,
    LocksUnsupported,
    McpServerError,
    MissingCredentials,
    ModelError,
    NoActiveTurn,
    QuotaExceeded,
    ReplyCancelled,
    ReplyTimeout,
    RetryLimit,
    RolloutError,
    RolloutUnavailable,
    ServerOverloaded,
    SessionConfiguredNotFirstEvent,
    StreamError,
    ThreadNotFound,
    TurnFailed,
    TurnInterrupted,
    Unauthorized,
    UnexpectedStatus,
    UnsupportedOperation,
    UsageLimitReached,
    WriterConflict,
)

# Each error once or more, with its whole text. Where Codex has the case, its text comes first.
TEXTS: list[tuple[CodexError, str]] = [
    (CodexError("anything"), "anything"),
    (InvalidRequest("Config.cwd: 'x' is not a path"), "Config.cwd: 'x' is not a path"),
    (UnsupportedOperation("thread manager dropped"), "unsupported operation: thread manager dropped"),
    (ThreadNotFound("0199-x"), "no thread with id: 0199-x"),
    (
        AgentLimitReached(64, 65),
        "agent thread limit reached (max 64): 65 at work; "
        "wait for one to finish, shut one down, or raise Config.max_agents of the root",
    ),
    (
        AgentDepthLimitReached(4, 5),
        "agent depth limit reached (max 4): the child would be at depth 5; "
        "solve the task in this thread, or raise Config.max_depth of the root",
    ),
    (
        InputRefused(64),
        "input refused: 64 inputs wait for the running turn; send it again when that has moved on",
    ),
    (SessionConfiguredNotFirstEvent(), "session configured event was not the first event in the stream"),
    (InternalAgentDied(), "internal error; agent loop died unexpectedly"),
    (InternalAgentDied("the loop ended"), "internal error; agent loop died unexpectedly (the loop ended)"),
    (ActorNotFound("SomeActor (urn:uuid:1)"), "SomeActor (urn:uuid:1) not found"),
    (ReplyTimeout(0.5), "no reply within 0.5 s; the work goes on and the reply can be waited for again"),
    (ReplyTimeout(30), "no reply within 30 s; the work goes on and the reply can be waited for again"),
    (ReplyCancelled(), "the reply was cancelled"),
    (
        DeadlockError("Reply.get()"),
        "Reply.get() would block the event loop that has to answer it; use `await` (or `async for`) on the "
        "manager's own loop, or make the blocking call from another OS thread",
    ),
    (RolloutError(Path("a.jsonl"), "empty session file"), "empty session file: a.jsonl"),
    (
        WriterConflict("a.jsonl", "process 7 on host", 12.3, True),
        "process 7 on host writes this rollout, for 12 s; follow it, fork it, or resume it with take_over=True: a.jsonl",
    ),
    (
        WriterConflict("a.jsonl", "process 7", None, False),
        "process 7 has written this rollout meanwhile; follow it, fork it, or resume it with take_over=True: a.jsonl",
    ),
    (
        LocksUnsupported("a.lock"),
        "no file can be locked here, so two writers of one thread could not be kept apart; use a folder of this machine, "
        'or ManagerConfig(single_writer="trust") where no other program writes these threads: a.lock',
    ),
    (McpServerError("files", "exited with code 3"), "the MCP server 'files' exited with code 3"),
    (
        RolloutUnavailable("a.jsonl", errno.ENOSPC, 3),
        "cannot write the rollout (No space left on device): a.jsonl; 3 line(s) wait for it; "
        "they are written as soon as that is possible",
    ),
    (
        RolloutUnavailable("a.jsonl", errno.EIO, 3, 500, "broken").refusal(),
        "cannot write the rollout (broken): a.jsonl; 3 line(s) wait for it; this was not taken in",
    ),
    (StreamError("idle timeout", 1.5), "stream disconnected before completion: idle timeout"),
    (ModelError("no answer"), "no answer"),
    (ConnectionFailed("127.0.0.1:1", "refused"), "connection to 127.0.0.1:1 failed: refused"),
    (UnexpectedStatus(404, "no such path", "r1"), "unexpected status 404: no such path, request id: r1"),
    (InternalServerError("boom"), "the model's server has an internal error (boom); try again later"),
    (ServerOverloaded(), "the model's server is overloaded; try again later, or another model"),
    (RetryLimit(429, "r1", 2.0), "exceeded retry limit, last status: 429, request id: r1; the server asks to wait 2 s"),
    (BadModelRequest("no tools"), "the model's server refused the request: no tools"),
    (MissingCredentials("set KEY"), "set KEY"),
    (Unauthorized(401, "wrong key"), "the model's server refused the credentials (status 401): wrong key"),
    (UsageLimitReached("5 hours", 1.5), "usage limit reached: 5 hours"),
    (QuotaExceeded("no credit"), "quota exceeded, check plan and billing: no credit"),
    (
        ContextWindowExceeded(),
        "the history is longer than the model's context window; compact it, roll turns back, or start a new thread",
    ),
    (NoActiveTurn(), "no active turn to steer; submit the input, and it begins one"),
    (
        ExpectedTurnMismatch("1", "2"),
        "expected the active turn 1, but 2 runs; the input was not taken in",
    ),
    (TurnFailed("7", "no more quota"), "turn 7 failed: no more quota"),
    (TurnInterrupted("7", "interrupted"), "turn 7 was aborted: interrupted"),
]
SAMPLES = [error for error, _ in TEXTS]
ERROR_CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if each.__module__ == errors.__name__ and issubclass(each, BaseException)
]

MAKE_A_COPY = [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy]


def drawn_parents() -> dict[str, str | None]:
    # The tree in the docstring: name -> the name above it. Each level is drawn four columns wide.
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.fullmatch(r" {4}((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:  .*)?", line)
        if drawn:
            depth, name = len(drawn[1]) // 4, drawn[2]
            del path[depth:]
            parents[name] = path[-1] if path else None
            path.append(name)
    return parents


def real_parent(error_class: type[BaseException]) -> str | None:
    return next((base.__name__ for base in error_class.__bases__ if base.__module__ == errors.__name__), None)


def test_docstring_draws_the_tree_of_errors() -> None:
    assert drawn_parents() == {each.__name__: real_parent(each) for each in ERROR_CLASSES}


def test_every_error_descends_from_the_base() -> None:
    assert [each for each in ERROR_CLASSES if not issubclass(each, CodexError)] == []


def test_table_of_texts_has_every_error() -> None:
    assert {type(error) for error in SAMPLES} == set(ERROR_CLASSES)


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_every_error_is_documented_by_itself(error_class: type[CodexError]) -> None:
    assert vars(error_class).get("__doc__")


@pytest.mark.parametrize(("error", "text"), TEXTS)
def test_text_is_built_from_the_fields(error: CodexError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("make_a_copy", MAKE_A_COPY, ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("error", SAMPLES)
def test_error_survives_being_copied_or_pickled(error: CodexError, make_a_copy: Callable[[Any], Any]) -> None:
    twin = make_a_copy(error)
    assert twin is not error
    assert (type(twin), str(twin), twin.args, vars(twin)) == (type(error), str(error), error.args, vars(error))


def test_reply_timeout_is_every_kind_of_timeout() -> None:
    assert issubclass(ReplyTimeout, CodexError)
    assert issubclass(ReplyTimeout, TimeoutError)
    assert issubclass(ReplyTimeout, pykka.Timeout)


def test_dead_actor_is_dead_for_pykka_too() -> None:
    assert issubclass(InternalAgentDied, pykka.ActorDeadError)
    assert issubclass(ActorNotFound, InternalAgentDied)


def test_only_what_passes_by_itself_may_be_retried() -> None:
    retryable = {each for each in ERROR_CLASSES if getattr(each, "retryable", None)}
    assert retryable == {
        InputRefused,
        InternalAgentDied,
        ActorNotFound,
        StreamError,
        ConnectionFailed,
        UnexpectedStatus,
        InternalServerError,
    }


def test_model_errors_say_their_class_on_the_wire() -> None:
    assert UnexpectedStatus(404, "x").codex_error_info == {
        "response_stream_connection_failed": {"http_status_code": 404}
    }
    assert StreamError("x").codex_error_info == {"response_stream_disconnected": {"http_status_code": None}}
    assert ContextWindowExceeded().codex_error_info == "context_window_exceeded"
    assert ModelError("x").codex_error_info == "other"


def test_fields_of_an_error_are_typed() -> None:
    error = RolloutError("a.jsonl", "empty session file")
    assert (error.path, error.reason) == (Path("a.jsonl"), "empty session file")
