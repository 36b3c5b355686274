from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_actors import (
    Config,
    Forked,
    Interrupt,
    ManagerConfig,
    Resumed,
    ScriptedModel,
    ThreadId,
    ThreadManager,
    UserInput,
)
from codex_actors.actors.handle import CodexThread
from codex_actors.errors import (
    CodexError,
    DeadlockError,
    InvalidRequest,
    RolloutError,
    RolloutUnavailable,
    ThreadNotFound,
    UnsupportedOperation,
)
from codex_actors.protocol.history import ResponseItemLine
from codex_actors.testing import no_leaks

WAIT_S = 10.0
IMPATIENT = ManagerConfig(degraded_timeout_s=0.1)
UNKNOWN = "0193b5b8-0000-7000-8000-000000000001"
Call = Callable[[ThreadManager, CodexThread, Path], Any]

BAD: dict[str, tuple[Call, type[CodexError], str]] = {
    "an unknown id": (lambda m, t, p: m.get_thread(UNKNOWN), ThreadNotFound, f"no thread with id: {UNKNOWN}"),
    "no id at all": (lambda m, t, p: m.get_thread("seven"), InvalidRequest, "'seven' is not a UUID"),
    "an id of the wrong type": (lambda m, t, p: m.remove_thread(7), InvalidRequest, "7 is not a UUID"),  # type: ignore[arg-type]
    "start with a dict": (lambda m, t, p: m.start_thread({}), InvalidRequest, "dict is not a Config"),  # type: ignore[arg-type]
    "start with nothing": (lambda m, t, p: m.start_thread(None), InvalidRequest, "NoneType is not a Config"),  # type: ignore[arg-type]
    "start with the other config": (
        lambda m, t, p: m.start_thread(ManagerConfig()),  # type: ignore[arg-type]
        InvalidRequest,
        "ManagerConfig is not a Config",
    ),
    "resume with a wrong config": (
        lambda m, t, p: m.resume_thread_from_rollout("gpt", p),  # type: ignore[arg-type]
        InvalidRequest,
        "str is not a Config",
    ),
    "resume of a list": (
        lambda m, t, p: m.resume_thread_with_history(Config(), []),  # type: ignore[arg-type]
        InvalidRequest,
        "list is not New, Resumed or Forked",
    ),
    "resume of no path": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), 7),  # type: ignore[arg-type]
        InvalidRequest,
        "not a path: 7",
    ),
    "a missing file": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), p / "gone.jsonl"),
        RolloutError,
        "no such rollout file: .*gone.jsonl",
    ),
    "a folder": (lambda m, t, p: m.resume_thread_from_rollout(Config(), p), RolloutError, "a folder, not a rollout"),
    "an empty file": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), written(p, b"")),
        RolloutError,
        "empty session file",
    ),
    "a text file": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), written(p, b"# notes\n")),
        RolloutError,
        "failed to parse thread ID from rollout file",
    ),
    "a picture": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), written(p, b"\x89PNG\xff\xfe\x00")),
        RolloutError,
        "not UTF-8 text",
    ),
    "a path with a zero": (
        lambda m, t, p: m.resume_thread_from_rollout(Config(), "a\0b"),
        RolloutError,
        "cannot read the rollout",
    ),
    "fork of a missing file": (
        lambda m, t, p: m.fork_thread(None, None, p / "gone.jsonl"),
        RolloutError,
        "no such rollout file",
    ),
    "fork of an empty file": (
        lambda m, t, p: m.fork_thread(0, Config(), written(p, b" \n")),
        RolloutError,
        "empty session file",
    ),
    "a history that is none": (
        lambda m, t, p: m.resume_thread_with_history(
            Config(),
            Forked((ResponseItemLine.model_construct(payload="x"),)),
        ),
        RolloutError,
        "str is no payload",
    ),
    "fork of an unknown id": (
        lambda m, t, p: m.fork_thread(None, None, ThreadId(UNKNOWN)),
        ThreadNotFound,
        UNKNOWN,
    ),
    "a fork index below 0": (lambda m, t, p: m.fork_thread(-1, None, t.thread_id), InvalidRequest, "-1 is below 0"),
    "a fork index of text": (
        lambda m, t, p: m.fork_thread("1", None, t.thread_id),  # type: ignore[arg-type]
        InvalidRequest,
        "'1' is not a whole number",
    ),
    "a fork index of truth": (lambda m, t, p: m.fork_thread(True, None, t.thread_id), InvalidRequest, "True is not"),
    "a fork with a wrong config": (
        lambda m, t, p: m.fork_thread(0, {}, t.thread_id),  # type: ignore[arg-type]
        InvalidRequest,
        "dict is not a Config",
    ),
    "an op of text": (lambda m, t, p: t.submit("hi"), InvalidRequest, "not an op"),  # type: ignore[arg-type]
    "an unknown op": (lambda m, t, p: t.submit({"type": "undo"}), InvalidRequest, "undo"),
    "an op with an unknown field": (
        lambda m, t, p: t.submit({"type": "interrupt", "now": True}),
        InvalidRequest,
        "now",
    ),
    "an input without items": (
        lambda m, t, p: t.submit({"type": "user_input", "items": []}),
        InvalidRequest,
        "items",
    ),
    "a rollback below 0": (
        lambda m, t, p: t.submit({"type": "thread_rollback", "num_turns": -1}),
        InvalidRequest,
        "num_turns",
    ),
    "a run of nothing": (lambda m, t, p: t.run([]), InvalidRequest, "not user input"),
    "a run of bytes": (lambda m, t, p: t.run(b"hi"), InvalidRequest, "not user input"),  # type: ignore[arg-type]
    "a run of a number": (lambda m, t, p: t.run(7), InvalidRequest, "not user input"),  # type: ignore[arg-type]
    "an agent with a wrong config": (
        lambda m, t, p: m.agent_control().spawn_agent(None, "hi"),  # type: ignore[arg-type]
        InvalidRequest,
        "NoneType is not a Config",
    ),
    "an agent without input": (lambda m, t, p: m.agent_control().spawn_agent(Config(), []), InvalidRequest, "items"),
    "input for no id": (lambda m, t, p: m.agent_control().send_input("x", "hi"), InvalidRequest, "'x' is not a UUID"),
    "input for a missing thread": (
        lambda m, t, p: m.agent_control().send_input(UNKNOWN, "hi"),
        ThreadNotFound,
        UNKNOWN,
    ),
    "a second entry": (lambda m, t, p: m.__enter__(), UnsupportedOperation, "a manager is entered once"),
}


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file.jsonl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_error(case: str, tmp_path: Path) -> None:
    call, kind, text = BAD[case]
    with no_leaks(), ThreadManager.for_testing(ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        before = thread.run("before").get(timeout=WAIT_S)
        with pytest.raises(CodexError, match=text) as caught:
            call(manager, thread, tmp_path).get(timeout=WAIT_S)
        assert type(caught.value) is kind
        assert manager.list_thread_ids().get(timeout=WAIT_S) == [thread.thread_id]
        assert (before.text, thread.run("after").get(timeout=WAIT_S).text) == ("echo: before", "echo: after")
        assert manager.dead_letters == ()


CALLS: dict[str, Callable[[ThreadManager], Any]] = {
    "start": lambda m: m.start_thread(Config()),
    "list": lambda m: m.list_thread_ids(),
    "get": lambda m: m.get_thread(UNKNOWN),
    "remove": lambda m: m.remove_thread(UNKNOWN),
    "resume": lambda m: m.resume_thread_from_rollout(Config(), "x.jsonl"),
    "resume with history": lambda m: m.resume_thread_with_history(Config(), Resumed(ThreadId(UNKNOWN), (), None)),
    "fork": lambda m: m.fork_thread(None, None, "x.jsonl"),
    "models": lambda m: m.list_models(Config()),
    "control": lambda m: m.agent_control(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_outside_of_the_with_are_refused(name: str) -> None:
    manager = ThreadManager.for_testing(ScriptedModel())
    with pytest.raises(UnsupportedOperation, match="enter the manager first"):
        CALLS[name](manager)
    with manager:
        pass
    with pytest.raises(UnsupportedOperation, match="closed"):
        CALLS[name](manager)


def test_close_before_entry_is_refused_and_repeats() -> None:
    manager = ThreadManager.for_testing(ScriptedModel())
    with pytest.raises(UnsupportedOperation, match="not entered"):
        manager.close()
    with manager:
        first = manager.close().get(timeout=WAIT_S)
    assert manager.close().get(timeout=WAIT_S) is first
    with pytest.raises(UnsupportedOperation, match="entered once"):
        manager.__enter__()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"config": Config()}, "Config is not a ManagerConfig"),
        ({"model": "gpt-5"}, "str has no stream"),
        ({"model": object()}, "object has no stream"),
    ],
)
def test_manager_of_wrong_arguments_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ThreadManager(**arguments)


def test_get_on_the_loop_names_the_deadlock() -> None:
    async def main() -> None:
        async with ThreadManager.for_testing(ScriptedModel()) as manager:
            starting = manager.start_thread(Config())
            with pytest.raises(DeadlockError, match="await"):
                starting.get()
            thread = (await starting).thread
            with pytest.raises(DeadlockError):
                thread.run("hi").get()
            with pytest.raises(DeadlockError):
                thread.watch_status().ended().get()
            stream = thread.events()
            stream.take()
            assert (await thread.run("again")).status.word == "completed"

    with no_leaks():
        asyncio.run(main())


def test_home_that_cannot_be_written_fails_the_reply(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a file in the way")
    manager = ThreadManager(tmp_path, config=IMPATIENT)
    with no_leaks(), manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        stream = thread.events()
        for _ in range(2):
            with pytest.raises(RolloutUnavailable, match="sessions"):
                thread.run("hi").get(timeout=WAIT_S)
            with pytest.raises(RolloutUnavailable, match="sessions"):
                thread.submit(UserInput("hi")).get(timeout=WAIT_S)
        assert thread.is_degraded
        report = manager.close().get(timeout=WAIT_S)
        kinds = [event.msg.type for event in stream]
    assert kinds[:2] == ["task_started", "warning"]
    assert kinds[-1] == "shutdown_complete"
    assert [path for path, _ in report.unwritten] == [thread.rollout_path]
    assert report.completed == (thread.thread_id,)
    assert report.is_drained


def test_unwritable_thread_can_be_shut_down(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("a file in the way")
    with no_leaks(), ThreadManager(tmp_path, config=IMPATIENT) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        with pytest.raises(RolloutError):
            thread.run("hi").get(timeout=WAIT_S)
        with pytest.raises(RolloutError, match="sessions"):
            thread.submit(Interrupt()).get(timeout=WAIT_S)
        ended = manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        assert ended.reason == "shutdown"
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []


def test_home_that_heals_gets_every_accepted_line(tmp_path: Path) -> None:
    blocker = tmp_path / "sessions"
    blocker.write_text("a file in the way")
    manager = ThreadManager(tmp_path, config=IMPATIENT)
    with manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        with pytest.raises(RolloutError):
            thread.run("refused").get(timeout=WAIT_S)
        blocker.unlink()
        assert thread.run("taken").get(timeout=WAIT_S).text == "echo: taken"
        assert thread.rollout_path is not None
        text = thread.rollout_path.read_text()
        report = manager.close().get(timeout=WAIT_S)
    assert "echo: taken" in text
    assert text.splitlines()[0].count("session_meta") == 1
    assert report.unwritten == ()


def test_thread_whose_first_input_was_refused_can_be_resumed(tmp_path: Path) -> None:
    unchecked = UserInput.model_construct(items=UserInput("hi").items, final_output_json_schema={"type": object()})
    with no_leaks(), ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        with pytest.raises(RolloutError, match="cannot be put into JSON"):
            thread.run(unchecked).get(timeout=WAIT_S)
        assert thread.run("now").get(timeout=WAIT_S).text == "echo: now"
    assert thread.rollout_path is not None
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        new = manager.resume_thread_from_rollout(Config(), thread.rollout_path).get(timeout=WAIT_S)
        assert new.thread_id == thread.thread_id
