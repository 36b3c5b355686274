from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from codex_actors import ThreadQuery
from codex_actors.rollout.listing import all_threads


def started(command: Any, prompt: str, *options: str) -> str:
    ran = command("run", "--embedded", prompt, *options)
    assert ran.returncode == 0
    return ran.stderr.split()[-1]


def listed(command: Any, *options: str) -> list[dict[str, str]]:
    ran = command("ls", "--json", *options)
    assert ran.returncode == 0
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_resume_goes_on_in_same_thread(command: Any) -> None:
    thread_id = started(command, "First.")
    ran = command("resume", thread_id, "--embedded", "Second.")
    assert (ran.returncode, ran.stdout) == (0, "echo: Second.\n")
    assert ran.stderr.split()[-1] == thread_id
    assert command("resume", thread_id).stdout == "> First.\necho: First.\n> Second.\necho: Second.\n"


def test_resume_takes_path_of_a_rollout(command: Any) -> None:
    started(command, "First.")
    (thread,) = listed(command)
    assert command("resume", thread["path"], "--embedded", "Second.").stdout == "echo: Second.\n"


def test_resume_shows_history_as_json(command: Any) -> None:
    ran = command("resume", started(command, "First."), "--json")
    (event,) = map(json.loads, ran.stdout.splitlines())
    assert [message["type"] for message in event["msg"]["initial_messages"]][:2] == ["user_message", "agent_message"]


def test_fork_keeps_what_came_before(command: Any) -> None:
    thread_id = started(command, "First.")
    command("resume", thread_id, "--embedded", "Second.")
    ran = command("fork", thread_id, "--before", "1", "--embedded", "Other.")
    fork_id = ran.stderr.split()[-1]
    assert (ran.stdout, fork_id != thread_id) == ("echo: Other.\n", True)
    assert command("resume", fork_id).stdout == "> First.\necho: First.\n> Other.\necho: Other.\n"


def test_fork_without_prompt_says_its_id(command: Any) -> None:
    thread_id = started(command, "First.")
    fork_id = command("fork", thread_id).stdout.strip()
    assert {thread["id"] for thread in listed(command)} == {thread_id, fork_id}


def test_hint_names_a_home_that_was_given(command: Any, tmp_path: Path) -> None:
    ran = command("run", "--embedded", "--home", "other home", "x")
    assert ran.stderr.rstrip().endswith(f"--home '{tmp_path / 'other home'}'")
    assert listed(command) == []
    assert len(listed(command, "--home", "other home")) == 1


def test_newest_threads_are_listed_first(command: Any, tmp_path: Path) -> None:
    first = started(command, "The\n  first   one.")
    second = started(command, "The second one.")
    os.utime(listed(command)[-1]["path"], (2_000_000_000, 2_000_000_000))
    newest, other = listed(command)
    assert (newest["id"], newest["preview"], newest["cwd"]) == (first, "The first one.", str(tmp_path))
    assert newest["updated"] == "2033-05-18T03:33:20.000Z"
    assert other["id"] == second
    assert [thread["id"] for thread in listed(command, "--limit", "1")] == [first]


def test_list_in_a_pipe_has_tabs(command: Any, tmp_path: Path) -> None:
    thread_id = started(command, "Hello.")
    (line,) = command("ls").stdout.splitlines()
    first, _, folder, words = line.split("\t")
    assert (first, folder, words) == (thread_id, str(tmp_path), "Hello.")


def test_empty_home_is_said_on_stderr(command: Any, home: Path) -> None:
    ran = command("ls")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == f"codex-actors: no threads are kept in {home}\n"


def test_files_that_are_none_are_left_out(command: Any, home: Path) -> None:
    thread_id = started(command, "Hello.")
    (kept,) = all_threads(home, ThreadQuery())
    for number, head in enumerate(
        (b"", b"{\n", b"[]\n", b'{"type": "session_meta", "payload": {"id": 1}}\n', b"\xff\n")
    ):
        name = kept.path.name.replace(kept.id[-1:] + ".jsonl", f"{number}.jsonl")
        assert name != kept.path.name or kept.id[-1] == str(number)
        if name != kept.path.name:
            kept.path.with_name(name).write_bytes(head)
    assert [thread.id for thread in all_threads(home, ThreadQuery())] == [thread_id]


def test_agents_are_listed_when_asked_for(command: Any, home: Path) -> None:
    thread_id = started(command, "Hello.")
    (kept,) = all_threads(home, ThreadQuery())
    agent_id = "019ac5a1-6a5e-7d02-8f4e-6d1a3f0c2b11"
    first, _, rest = kept.path.read_text().partition("\n")
    meta = json.loads(first)
    meta["payload"] |= {"id": agent_id, "parent_thread_id": thread_id}
    kept.path.with_name(kept.path.name.replace(thread_id, agent_id)).write_text(json.dumps(meta) + "\n" + rest)
    assert [thread["id"] for thread in listed(command)] == [thread_id]
    assert {thread["id"] for thread in listed(command, "--agents")} == {thread_id, agent_id}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folder_that_is_closed_is_named(command: Any, home: Path) -> None:
    (home / "sessions").mkdir(parents=True, mode=0)
    ran = command("ls")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert str(home / "sessions") in ran.stderr


def test_embedded_model_is_listed_as_default(command: Any) -> None:
    assert command("models", "--embedded").stdout == "*\tscripted\tscripted\t\n"
    (preset,) = map(json.loads, command("models", "--embedded", "--json").stdout.splitlines())
    assert (preset["model"], preset["is_default"]) == ("scripted", True)


def test_rollouts_of_codex_are_listed(shared_dir: Path, home: Path) -> None:
    found = sorted((shared_dir / "codex" / "rollouts").rglob("*.jsonl"))
    (home / "sessions").mkdir(parents=True)
    for number, path in enumerate(found):
        name = f"rollout-2025-11-25T00-00-00-019ac5a1-6a5e-7d02-8f4e-{number:012}.jsonl"
        shutil.copy2(path, home / "sessions" / name)
    threads = list(all_threads(home))
    assert len(threads) == len(found)
    assert [thread.path for thread in threads if not (thread.id and thread.cwd and thread.preview)] == []
