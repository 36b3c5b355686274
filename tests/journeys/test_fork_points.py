from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, NewThread, ScriptedModel, ThreadId, ThreadManager, tool
from codex_actors.errors import InvalidRequest, RolloutError, ThreadNotFound
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message
from codex_actors.rollout.forking import ABORTED_MARKER, ForkPoint
from codex_actors.runtime.reply import Reply

WAIT_S = 10.0
UNKNOWN = ThreadId("0193b5b8-0000-7000-8000-000000000001")


def start(manager: ThreadManager, *inputs: str, config: Config | None = None) -> tuple[NewThread, list[str]]:
    """A thread that has run these turns, and their ids."""
    new = manager.start_thread(config or Config()).get(timeout=WAIT_S)
    return new, [new.thread.run(text).get(timeout=WAIT_S).turn_id for text in inputs]


def dialogue(prompt: Any) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text for text in texts if not text.startswith("<environment_context>")]


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("is_live", [True, False])
def test_a_fork_leaves_before_or_after_a_turn(tmp_path: Path, is_live: bool) -> None:
    with ThreadManager(tmp_path) as manager:
        new, turn_ids = start(manager, "u1", "u2", "u3")
    path = new.thread.rollout_path
    assert path is not None
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        if is_live:  # it gives its lines itself: those of its file, and what it has recorded since
            turn_ids.append(manager.resume_thread_from_rollout(Config(), path).get().thread.run("u4").get().turn_id)
        for at in (ForkPoint.before_turn(turn_ids[-1]), ForkPoint.after_turn(turn_ids[-2])):
            fork = manager.fork(path, at).get(timeout=WAIT_S)
            fork.thread.run("mine").get(timeout=WAIT_S)
            before = [text for n in range(1, len(turn_ids)) for text in (f"u{n}", f"echo: u{n}")]
            assert dialogue(model.prompts[-1]) == [*before, "mine"]


def test_a_running_thread_is_forked_as_interrupted(tmp_path: Path) -> None:
    call = FunctionCall(name="ask", arguments="{}", call_id="c1")
    forks: list[Reply[NewThread]] = []
    model = ScriptedModel([[call], "done", "forked"], keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:

        @tool
        async def ask() -> str:
            forks.append(manager.fork(base.thread_id, ForkPoint.interrupted(), Config()))
            await forks[0]
            return "asked"

        base, _ = start(manager, config=Config(tools=(ask,)))
        turn_id = base.thread.run("u1").get(timeout=WAIT_S).turn_id
        fork = forks[0].get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
        parent, lines = lines_of(base.thread.rollout_path), lines_of(fork.rollout_path)
    outputs = [item.output for item in model.prompts[-1].input if isinstance(item, FunctionCallOutput)]
    assert outputs == ["aborted"]
    assert dialogue(model.prompts[-1]) == ["u1", ABORTED_MARKER, "mine"]
    aborted = [line["payload"] for line in lines if line["payload"].get("type") == "turn_aborted"]
    assert [event["turn_id"] for event in aborted] == [turn_id]
    assert not any(line["payload"].get("type") == "turn_aborted" for line in parent)


def test_a_parent_is_the_same_bytes_afterwards(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        new, turn_ids = start(manager, "u1", "u2")
        path = new.thread.rollout_path
        assert path is not None
        before, inode = path.read_bytes(), path.stat().st_ino
        points = [ForkPoint.end(), ForkPoint.interrupted(), ForkPoint.after_turn(turn_ids[0]), ForkPoint.after_item(1)]
        forks = [manager.fork(new.thread, at).get(timeout=WAIT_S) for at in points]
        for fork in forks:
            fork.thread.run("mine").get(timeout=WAIT_S)
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def test_times_of_a_fork_never_go_back(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        new, _ = start(manager, "u1")
        fork = manager.fork(new.thread, ForkPoint.end()).get(timeout=WAIT_S).thread
        path = fork.rollout_path
        again = manager.fork(fork, ForkPoint.end()).get(timeout=WAIT_S).thread
        again.run("mine").get(timeout=WAIT_S)
        for file in (path, again.rollout_path):
            times = [line["timestamp"] for line in lines_of(file)]
            assert times == sorted(times)


def test_the_lineage_goes_back_to_the_root(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        root, _ = start(manager, "u1", "u2")
        child = manager.fork(root.thread, ForkPoint.before_user_message(1)).get(timeout=WAIT_S)
        grandchild = manager.fork(child.thread, ForkPoint.end()).get(timeout=WAIT_S)
        live = manager.lineage(grandchild.thread).get(timeout=WAIT_S)
        kept = len(lines_of(child.thread.rollout_path))
    path = grandchild.thread.rollout_path
    assert path is not None
    with ThreadManager(tmp_path) as manager:
        read = manager.lineage(path).get(timeout=WAIT_S)
        assert manager.lineage(grandchild.thread_id).get(timeout=WAIT_S) == read
    assert live == read
    assert [one.thread_id for one in read] == [grandchild.thread_id, child.thread_id, root.thread_id]
    assert [one.forked_from_lines for one in read] == [kept, kept - 1, None]


def test_a_lineage_ends_where_a_file_is_missing(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        root, _ = start(manager, "u1")
        child = manager.fork(root.thread, ForkPoint.end()).get(timeout=WAIT_S)
    assert root.thread.rollout_path is not None
    root.thread.rollout_path.unlink()
    with ThreadManager(tmp_path) as manager:
        _, last = manager.lineage(child.thread_id).get(timeout=WAIT_S)
        assert (last.thread_id, last.path) == (root.thread_id, None)
        with pytest.raises(ThreadNotFound, match=UNKNOWN):
            manager.lineage(UNKNOWN).get(timeout=WAIT_S)


def test_a_diff_names_the_items_of_each() -> None:
    with ThreadManager() as manager:
        root, _ = start(manager, "u1", "u2")
        child = manager.fork(root.thread, ForkPoint.before_user_message(1)).get(timeout=WAIT_S)
        child.thread.run("other").get(timeout=WAIT_S)
        found = manager.diff(root.thread, child.thread_id).get(timeout=WAIT_S)
        assert found.common == 3
        assert [getattr(item, "text", "") for item in found.a] == ["u2", "echo: u2"]
        assert [getattr(item, "text", "") for item in found.b] == ["other", "echo: other"]


def test_a_wrong_point_makes_no_thread(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        new, _ = start(manager, "u1")
        with pytest.raises(InvalidRequest, match="at: 1 is not a ForkPoint"):
            manager.fork(new.thread, 1)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="no user message 3"):
            manager.fork(new.thread, ForkPoint.before_user_message(3)).get(timeout=WAIT_S)
        with pytest.raises(RolloutError, match="no such rollout file"):
            manager.fork(tmp_path / "none.jsonl", ForkPoint.end()).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == [new.thread_id]


def test_torn_end_gives_fork_no_line_twice(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        new, _ = start(manager, "u1")
    path = new.thread.rollout_path
    assert path is not None
    with path.open("ab") as file:
        file.write(b'{"timestamp":"2026-01-08T10:11:12.000Z","type":"response_item","payload":{"type":"' + b"x" * 5_000)
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        thread.run("u2").get(timeout=WAIT_S)  # in the place of the torn line, and shorter
        fork = manager.fork(thread, ForkPoint.end()).get(timeout=WAIT_S)
        fork.thread.run("mine").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "echo: u1", "u2", "echo: u2", "mine"]
