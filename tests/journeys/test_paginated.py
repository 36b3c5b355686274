from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ForkPoint, Interrupt, ScriptedModel, ThreadManager, tool
from codex_actors.errors import RolloutError, UnsupportedOperation
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.ops import Compact
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.reader import get_rollout_history

WAIT_S = 10.0
DATA = Path(__file__).parents[1] / "rollout" / "data"
ROOT, FORK = "*00a.jsonl", "*00b.jsonl"


@tool
def look() -> str:
    return "seen"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(DATA, tmp_path / "sessions" / "2026" / "11" / "20")
    return tmp_path


def path_in(home: Path, pattern: str) -> Path:
    return next(home.glob(f"sessions/2026/11/20/{pattern}"))


def appended(path: Path, before: bytes) -> list[dict[str, Any]]:
    """The lines behind `before`, which is untouched."""
    data = path.read_bytes()
    assert data.startswith(before)
    return [json.loads(line) for line in data[len(before) :].splitlines()]


def dialogue(prompt: Any) -> list[str]:
    return [item.text for item in prompt.input if isinstance(item, Message) and "<environment" not in item.text]


@pytest.mark.parametrize("pattern", [ROOT, FORK, "*00c.jsonl", "*_*.jsonl"])
def test_each_line_goes_on_with_the_ordinals(home: Path, pattern: str) -> None:
    path = path_in(home, pattern)
    before = path.read_bytes()
    last = json.loads(before.splitlines()[-1])["ordinal"]
    call = FunctionCall(name="look", arguments="{}", call_id="c9")
    with ThreadManager(home, model=ScriptedModel([[call], "done"])) as manager:
        thread = manager.resume_thread_from_rollout(Config(tools=(look,)), path).get(timeout=WAIT_S).thread
        assert thread.run("more").get(timeout=WAIT_S).text == "done"
    lines = appended(path, before)
    assert [line["ordinal"] for line in lines] == list(range(last + 1, last + 1 + len(lines)))
    events = [line["payload"] for line in lines if line["type"] == "event_msg"]
    assert [event["type"] for event in events if event["type"] != "token_count"] == [
        "task_started",
        "item_completed",
        "item_completed",
        "task_complete",
    ]
    assert [event["item"]["type"] for event in events if "item" in event] == ["UserMessage", "AgentMessage"]


def test_a_resumed_fork_knows_its_parents_items(home: Path) -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(home, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path_in(home, FORK)).get(timeout=WAIT_S).thread
        assert thread.agent_status() == AgentStatus.completed("fourth")
        thread.run("more").get(timeout=WAIT_S)
    assert dialogue(model.prompts[0])[:6] == ["one", "first", "two", "second", "four in the fork", "fourth"]


@pytest.mark.parametrize("is_torn", [True, False])
def test_damage_makes_no_gap_nor_repeat(home: Path, is_torn: bool) -> None:
    path = path_in(home, ROOT)
    for text in ("one more", "another"):
        with ThreadManager(home) as manager:
            manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread.run(text).get(timeout=WAIT_S)
        if text == "one more":
            lines = path.read_bytes().splitlines(keepends=True)
            # In the head of the line, behind its number; or a digit of its crc, which no Codex looks at.
            lines[-1] = lines[-1][:60] if is_torn else lines[-1].replace(b'"crc":', b'"crc":1')
            path.write_bytes(b"".join(lines))
    ordinals = [json.loads(line)["ordinal"] for line in path.read_bytes().splitlines()]
    assert ordinals == list(range(len(ordinals)))


def test_what_was_appended_is_read_back(home: Path) -> None:
    path = path_in(home, FORK)
    for _ in range(2):
        model = ScriptedModel(keep_prompts=True)
        with ThreadManager(home, model=model) as manager:
            thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
            thread.run("more").get(timeout=WAIT_S)
    assert dialogue(model.prompts[0])[-4:] == ["fourth", "more", "echo: more", "more"]
    ordinals = [json.loads(line)["ordinal"] for line in path.read_bytes().splitlines()]
    assert ordinals == list(range(ordinals[0], ordinals[0] + len(ordinals)))


def test_a_fork_of_it_is_of_the_older_form(home: Path) -> None:
    path = path_in(home, FORK)
    before = path.read_bytes()
    with ThreadManager(home) as manager:
        live = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        turn_id = live.run("more").get(timeout=WAIT_S).turn_id
        fork = manager.fork(live, ForkPoint.after_turn(turn_id)).get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
    assert fork.rollout_path is not None
    assert appended(path, before)
    lines = [json.loads(line) for line in fork.rollout_path.read_bytes().splitlines()]
    assert not any("ordinal" in line or "history_base" in line["payload"] for line in lines)
    said = [line["payload"]["message"] for line in lines if line["payload"].get("type") == "user_message"]
    assert said == ["one", "two", "four in the fork", "more", "mine"]


def test_an_interrupt_and_a_compaction_have_their_lines(home: Path) -> None:
    path = path_in(home, ROOT)
    before = path.read_bytes()
    model = ScriptedModel(["never", "a summary"])
    with ThreadManager(home, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        gate = model.hold(after="deltas")
        running = thread.run("long")
        assert gate.reached.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).aborted == "interrupted"
        gate.open()
        thread.submit(Compact()).get(timeout=WAIT_S)
        thread.run("after").get(timeout=WAIT_S)
    lines = appended(path, before)
    kinds = [line["payload"].get("type", line["type"]) for line in lines]
    assert kinds.count("turn_aborted") == 1
    assert kinds.count("task_started") == kinds.count("task_complete") + kinds.count("turn_aborted") == 3
    assert [line["payload"]["item"]["type"] for line in lines if "item" in line["payload"]][1] == "ContextCompaction"


def test_a_missing_parent_makes_no_thread(home: Path) -> None:
    path_in(home, ROOT).unlink()
    with ThreadManager(home) as manager:
        with pytest.raises(RolloutError, match=r"00000000000a.*is missing"):
            manager.resume_thread_from_rollout(Config(), path_in(home, FORK)).get(timeout=WAIT_S)
        with pytest.raises(RolloutError, match=r"00000000000a.*is missing"):
            manager.fork_thread(None, None, path_in(home, FORK)).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []


def test_items_alone_do_not_resume_such_a_file(home: Path) -> None:
    path = path_in(home, ROOT)
    before = path.read_bytes()
    with ThreadManager(home) as manager:
        history = get_rollout_history(path)
        with pytest.raises(UnsupportedOperation, match="resume it by its path"):
            manager.resume_thread_with_history(Config(), history).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []
    assert path.read_bytes() == before


def test_a_resumed_thread_holds_no_line_of_its_file(home: Path) -> None:
    with ThreadManager(home) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path_in(home, ROOT)).get(timeout=WAIT_S).thread
        assert thread._actor.record.lines == []
        thread.run("more").get(timeout=WAIT_S)
        found = manager.diff(thread, path_in(home, ROOT)).get(timeout=WAIT_S)
        assert (found.a, found.b) == ((), ())
