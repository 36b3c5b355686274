from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ScriptedModel, ThreadManager
from codex_actors.actors.handle import CodexThread
from codex_actors.protocol.events import Error, Event, ThreadRolledBack
from codex_actors.protocol.items import Message
from codex_actors.protocol.ops import ThreadRollback
from codex_actors.protocol.status import AgentStatus

WAIT_S = 10.0


def roll_back(thread: CodexThread, num_turns: int) -> Event:
    """The event that answers a rollback."""
    with thread.events() as stream:
        submission_id = thread.submit(ThreadRollback(num_turns=num_turns)).get(timeout=WAIT_S)
        while (event := stream.next_blocking(WAIT_S)) is not None:
            if event.id == submission_id:
                return event
    raise AssertionError("the thread has ended")


def dialogue(prompt: Any) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text for text in texts if not text.startswith("<environment_context>")]


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rollback_drops_last_turn_from_history() -> None:
    model = ScriptedModel(["a1", "a2", "a3"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        assert roll_back(thread, 1).msg == ThreadRolledBack(num_turns=1)
        assert lines_of(thread.rollout_path)[-1]["payload"] == {"type": "thread_rolled_back", "num_turns": 1}
        thread.run("u3").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "a1", "u3"]


def test_rollback_beyond_all_turns_keeps_session_prefix() -> None:
    model = ScriptedModel(["a1", "a2"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        assert roll_back(thread, 99).msg == ThreadRolledBack(num_turns=99)
        thread.run("u2").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u2"]
    assert model.prompts[-1].input[0] == model.prompts[0].input[0]


def test_rollback_of_empty_thread_leaves_it_usable() -> None:
    model = ScriptedModel(["a1"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert roll_back(thread, 1).msg == ThreadRolledBack(num_turns=1)
        thread.run("u1").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1"]


def test_rollback_fails_when_turn_in_progress() -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("u1")
        assert gate.reached.wait(WAIT_S)
        event = roll_back(thread, 1)
        assert thread.agent_status() == AgentStatus.RUNNING
        gate.open()
        assert running.get(timeout=WAIT_S).text == "echo: u1"
    assert event.msg == Error(
        message="Cannot rollback while a turn is in progress.", codex_error_info="thread_rollback_failed"
    )


def test_rollback_fails_when_num_turns_is_zero() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        event = roll_back(thread, 0)
        assert thread.agent_status() == AgentStatus.completed("echo: u1")
    assert event.msg == Error(message="num_turns must be >= 1", codex_error_info="thread_rollback_failed")


def test_resume_sees_the_rolled_back_history(tmp_path: Path) -> None:
    model = ScriptedModel(["a1", "a2", "a3"], keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        roll_back(thread, 1)
        path = thread.rollout_path
    assert path is not None
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        thread.run("u3").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "a1", "u3"]


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_fork_counts_only_turns_that_still_stand(nth: int) -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        roll_back(thread, 1)
        thread.run("u3").get(timeout=WAIT_S)
        fork = manager.fork_thread(nth, None, thread.thread_id).get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
    wanted = [["mine"], ["u1", "echo: u1", "mine"], ["mine"]][nth]
    assert dialogue(model.prompts[-1]) == wanted


def test_rollback_of_a_new_thread_leaves_no_file(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        assert isinstance(roll_back(thread, 1).msg, ThreadRolledBack)
        assert list(tmp_path.rglob("*.jsonl")) == []
        assert thread.run("u1").get(timeout=WAIT_S).text == "echo: u1"
        assert lines_of(thread.rollout_path)[0]["type"] == "session_meta"
