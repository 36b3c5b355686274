from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_actors import CodexThread, Config, Interrupt, ManagerConfig, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.actors.record import WAITING_BYTES
from codex_actors.errors import InternalAgentDied, ReplyTimeout, RolloutUnavailable
from codex_actors.protocol.events import TaskComplete, Warning
from codex_actors.protocol.items import FunctionCall, Message, OutputText
from codex_actors.rollout.files import Files
from codex_actors.runtime.streams import EventStream
from tests.disks import FullDisk, SlowDisk

WAIT_S = 20.0
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")


@tool
def look() -> str:
    return "seen"


@contextmanager
def on(disk: FullDisk, home: Path, model: ScriptedModel | None = None, **settings: Any) -> Iterator[ThreadManager]:
    config = ManagerConfig(**settings)
    with ThreadManager(home, model=model or ScriptedModel(), config=config) as manager:
        fail_with(manager, disk)
        yield manager


def fail_with(manager: ThreadManager, disk: Files) -> None:
    assert manager._opened is not None
    manager._opened.shared._rollouts._os = disk


def started(manager: ThreadManager) -> CodexThread:
    return manager.start_thread(Config(tools=(look,))).get(timeout=WAIT_S).thread


def until(stream: EventStream, kind: type[Any]) -> Any:
    while True:
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        if isinstance(event.msg, kind):
            return event.msg


def texts(thread: CodexThread) -> list[str]:
    assert thread.rollout_path is not None
    lines = [json.loads(line) for line in thread.rollout_path.read_bytes().splitlines()]
    items = [line["payload"] for line in lines if line["type"] == "response_item"]
    return [item["content"][0]["text"] for item in items if item["type"] == "message" and item["role"] != "developer"][
        1:
    ]


@pytest.mark.parametrize("durability", ["memory", "flush", "fsync"])
def test_full_disk_is_told_at_once_and_heals_by_itself(tmp_path: Path, durability: str) -> None:
    disk = FullDisk()
    with on(disk, tmp_path, durability=durability) as manager:
        thread = started(manager)
        thread.run("1").get(timeout=WAIT_S)
        stream, disk.is_full = thread.events(), True
        running = thread.run("2")
        warning = until(stream, Warning)
        assert thread.is_degraded
        assert "No space left on device" in warning.message
        assert durability == "memory" or not running.done()
        disk.is_full = False
        assert running.get(timeout=WAIT_S).text == "echo: 2"
        assert thread.run("3").get(timeout=WAIT_S).text == "echo: 3"
        assert not thread.is_degraded
        assert manager.close().get(timeout=WAIT_S).unwritten == ()
    assert texts(thread) == ["1", "echo: 1", "2", "echo: 2", "3", "echo: 3"]


def degrade(disk: FullDisk, thread: CodexThread) -> Any:
    """A run that waits for the disk."""
    stream, disk.is_full = thread.events(), True
    running = thread.run("waits")
    until(stream, Warning)
    return running


def test_degraded_thread_refuses_inputs_and_forgets_them(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path) as manager:
        thread = started(manager)
        running = degrade(disk, thread)
        for refused in (
            thread.run("no"),
            thread.submit({"type": "user_input", "items": [{"type": "text", "text": "no"}]}),
        ):
            with pytest.raises(RolloutUnavailable, match="this was not taken in") as caught:
                refused.get(timeout=WAIT_S)
            assert not caught.value.is_taken_in
        disk.is_full = False
        assert thread.run("yes").get(timeout=WAIT_S).text == "echo: yes"
        assert running.get(timeout=WAIT_S).text == "echo: waits"
    assert texts(thread) == ["waits", "echo: waits", "yes", "echo: yes"]


def test_refused_input_is_not_run_later(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path) as manager:
        thread = started(manager)
        running = degrade(disk, thread)
        with pytest.raises(RolloutUnavailable, match="this was not taken in"):
            thread.run("no").get(timeout=WAIT_S)
        stream, disk.is_full = thread.events(), False
        assert running.get(timeout=WAIT_S).text == "echo: waits"  # by an attempt of the writer's own
        until(stream, TaskComplete)
        assert thread.run("yes").get(timeout=WAIT_S).text == "echo: yes"
    assert texts(thread) == ["waits", "echo: waits", "yes", "echo: yes"]


def test_pending_replies_fail_and_their_lines_wait_on(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path, degraded_timeout_s=0.1) as manager:
        thread = started(manager)
        with pytest.raises(RolloutUnavailable) as caught:
            degrade(disk, thread).get(timeout=WAIT_S)
        assert caught.value.is_taken_in
        stream, disk.is_full = thread.events(), False
        until(stream, TaskComplete)
        assert not thread.is_degraded
    assert texts(thread) == ["waits", "echo: waits"]


def test_reply_of_running_turn_fails_too(tmp_path: Path) -> None:
    disk, model = FullDisk(), ScriptedModel()
    with on(disk, tmp_path, model, degraded_timeout_s=0.1) as manager:
        thread, gate = started(manager), model.hold("start")
        running = degrade(disk, thread)
        with pytest.raises(RolloutUnavailable):
            running.get(timeout=WAIT_S)
        stream, disk.is_full = thread.events(), False
        gate.open()
        assert until(stream, TaskComplete).error is None
    assert texts(thread) == ["waits", "echo: waits"]


def test_turn_is_aborted_when_too_much_waits(tmp_path: Path) -> None:
    long = Message(role="assistant", content=(OutputText(text="x" * WAITING_BYTES),))
    disk, model = FullDisk(), ScriptedModel([[long, CALL], "never asked", "next"])
    with on(disk, tmp_path, model) as manager:
        thread, gate = started(manager), model.hold("start")
        running = degrade(disk, thread)
        stream = thread.events()
        model.hold("start")
        gate.open()
        while "the turn is aborted" not in until(stream, Warning).message:  # a slow machine has others, too
            pass
        disk.is_full = False
        result = running.get(timeout=WAIT_S)
        assert result.error is not None
        assert isinstance(result.cause, RolloutUnavailable)
        assert result.status.word == "errored"


def test_many_lines_abort_the_turn(tmp_path: Path) -> None:
    disk, model = FullDisk(), ScriptedModel([[*map(said, range(1200))], "next"])
    with on(disk, tmp_path, model) as manager:
        thread, gate = started(manager), model.hold("start")
        running = degrade(disk, thread)
        stream = thread.events()
        gate.open()
        assert "the turn is aborted" in until(stream, Warning).message
        disk.is_full = False
        written = running.get(timeout=WAIT_S)
        assert 0 < len(written.items) < 1200
        assert thread.run("again").get(timeout=WAIT_S).text == "next"
    assert texts(thread)[: len(written.items)] == ["waits", *map(str, range(len(written.items) - 1))]


def said(number: int) -> Message:
    return Message(role="assistant", content=(OutputText(text=str(number)),))


def test_input_behind_an_aborted_turn_gets_its_own(tmp_path: Path) -> None:
    long = Message(role="assistant", content=(OutputText(text="x" * WAITING_BYTES),))
    disk, model, release = FullDisk(), ScriptedModel([[long, CALL], "answer"]), threading.Event()

    @tool(name="look")
    def wait() -> bool:
        return release.wait(WAIT_S)

    with on(disk, tmp_path, model) as manager:
        thread = manager.start_thread(Config(tools=(wait,))).get(timeout=WAIT_S).thread
        gate, first = model.hold("start"), thread.run("first")
        assert gate.reached.wait(WAIT_S)
        steered = thread.run("steered")
        thread.submit(UserInput("too")).get(timeout=WAIT_S)
        stream, disk.is_full = thread.events(), True
        gate.open()
        while "aborted" not in until(stream, Warning).message:
            pass
        release.set()
        disk.is_full = False
        assert first.get(timeout=WAIT_S).error is not None
        assert steered.get(timeout=WAIT_S).text == "answer"
    assert texts(thread) == ["first", long.text, "steered", "too", "answer"]


def test_other_threads_never_notice(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        bad, good = started(manager), started(manager)
        disk = FullDisk(part=str(bad.thread_id))
        fail_with(manager, disk)
        disk.is_full = True
        stream = bad.events()
        running = bad.run("waits")
        until(stream, Warning)
        for number in range(20):
            assert good.run(str(number)).get(timeout=WAIT_S).text == f"echo: {number}"
        assert (bad.is_degraded, good.is_degraded, running.done()) == (True, False, False)
        disk.is_full = False
        assert running.get(timeout=WAIT_S).text == "echo: waits"


def test_degraded_thread_ends_and_its_lines_are_written(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path) as manager:
        thread = started(manager)
        running = degrade(disk, thread)
        ended = manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        assert ended.reason == "shutdown"
        with pytest.raises(RolloutUnavailable):
            running.get(timeout=WAIT_S)
        assert thread.rollout_path is not None
        assert not thread.rollout_path.exists()
        disk.is_full = False
        assert manager.close().get(timeout=WAIT_S).unwritten == ()
    assert texts(thread)[0] == "waits"


def test_nothing_reads_a_file_that_lacks_lines(tmp_path: Path) -> None:
    disk, model = FullDisk(), ScriptedModel(keep_prompts=True)
    with on(disk, tmp_path, model) as manager:
        thread = started(manager)
        thread.run("1").get(timeout=WAIT_S)
        path, running = thread.rollout_path, degrade(disk, thread)
        assert path is not None
        manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        with pytest.raises(RolloutUnavailable):
            running.get(timeout=WAIT_S)
        for wanted in (
            manager.resume_thread_from_rollout(Config(), path),
            manager.fork_thread(None, Config(), path),
            manager.archive(thread.thread_id),
        ):
            with pytest.raises(RolloutUnavailable, match="this was not taken in"):
                wanted.get(timeout=WAIT_S)
        disk.is_full = False
        again = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        again.run("2").get(timeout=WAIT_S)
        said = [item.text for item in model.prompts[-1].input if isinstance(item, Message)]
        assert said[-3:] == ["waits", "echo: waits", "2"]
        manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        manager.archive(thread.thread_id).get(timeout=WAIT_S)


def test_resume_waits_for_the_lines_on_their_way(tmp_path: Path) -> None:
    disk, model = SlowDisk(), ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model, config=ManagerConfig(durability="memory")) as manager:
        fail_with(manager, disk)
        thread = started(manager)
        thread.run("1").get(timeout=WAIT_S)
        manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        assert thread.rollout_path is not None
        resumed = manager.resume_thread_from_rollout(Config(), thread.rollout_path)
        with pytest.raises(ReplyTimeout):  # and no error, nor an older history
            resumed.get(timeout=0.2)
        disk.go_on.set()
        resumed.get(timeout=WAIT_S).thread.run("2").get(timeout=WAIT_S)
    assert [item.text for item in model.prompts[-1].input if isinstance(item, Message)][-3:] == ["1", "echo: 1", "2"]


def test_file_that_was_changed_is_resumed_anew(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = started(manager)
        thread.run("1").get(timeout=WAIT_S)
        assert thread.rollout_path is not None
        with thread.rollout_path.open("ab") as file:
            file.write(b'{"timestamp":"2026-01-08T10:11:12.000Z","type":"world_state","payload":{}}\n')
        stream, running = thread.events(), thread.run("lost")
        assert "resume the thread from it anew" in until(stream, Warning).message
        manager.agent_control().shutdown_agent(thread.thread_id).get(timeout=WAIT_S)
        with pytest.raises(RolloutUnavailable):
            running.get(timeout=WAIT_S)
        again = manager.resume_thread_from_rollout(Config(), thread.rollout_path).get(timeout=WAIT_S).thread
        assert again.run("2").get(timeout=WAIT_S).text == "echo: 2"
        refused = thread.rollout_path.with_name(f"{thread.rollout_path.name}.fenced")
        assert b'"lost"' in refused.read_bytes()
    assert texts(thread) == ["1", "echo: 1", "2", "echo: 2"]


def test_fork_onto_full_disk_fails_at_once(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path) as manager:
        thread = started(manager)
        for text in "12":
            thread.run(text).get(timeout=WAIT_S)
        disk.is_full = True
        with pytest.raises(RolloutUnavailable):
            manager.fork_thread(1, Config(), thread.thread_id).get(timeout=WAIT_S)
        assert not thread.is_degraded
        assert manager.list_thread_ids().get(timeout=WAIT_S) == [thread.thread_id]


def test_interrupt_of_degraded_turn_takes_effect(tmp_path: Path) -> None:
    disk, model = FullDisk(), ScriptedModel()
    with on(disk, tmp_path, model) as manager:
        thread = started(manager)
        model.hold("start")
        running = degrade(disk, thread)
        interrupted = thread.submit(Interrupt())
        disk.is_full = False
        assert interrupted.get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).aborted == "interrupted"


def test_refused_input_of_ended_thread_is_told(tmp_path: Path) -> None:
    disk = FullDisk()
    with on(disk, tmp_path) as manager:
        thread = started(manager)
        degrade(disk, thread)
        late, shutdown = thread.run("late"), thread.submit({"type": "shutdown"})
        with pytest.raises((RolloutUnavailable, InternalAgentDied)):
            late.get(timeout=WAIT_S)
        with pytest.raises(RolloutUnavailable):
            shutdown.get(timeout=WAIT_S)
