from __future__ import annotations

import ast
import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import review_team
from review_team import Job, facts_of, kept, start_worker

import codex_actors

FOLDER = Path(codex_actors.__file__).parent
AGENTS = 12
FACTS = 36
"""A worker says about 15 lines more in a job that nobody disturbs; the last of them come when all reports are there."""

SEED = 20251125
RANDOM = random.Random(SEED)
POINTS = [(RANDOM.randint(1, FACTS), RANDOM.uniform(0, 0.01)) for _ in range(10)]

Rollouts = dict[Path, list[dict[str, Any]]]


def kill_after(job: Job, facts: int, delay_s: float) -> None:
    """The place is the seed's, the moment is the machine's: a kill at any moment must do."""
    with start_worker(job) as worker:
        for number, fact in enumerate(facts_of(worker), 1):
            job.hear(fact)
            if number == facts:
                threading.Event().wait(delay_s)
                worker.kill()
    assert worker.returncode in (-signal.SIGKILL, 0)


def finish(job: Job) -> list[dict[str, Any]]:
    with start_worker(job) as worker:
        facts = []
        for fact in facts_of(worker):
            job.hear(fact)
            facts.append(fact)
    assert worker.returncode == 0
    return facts


def rollouts(job: Job) -> Rollouts:
    """A file that was made and never written is nobody's: its agent's spawn was not answered."""
    paths = sorted(job.home.glob("sessions/*/*/*/rollout-*.jsonl"))
    found = {path: [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] for path in paths}
    return {path: lines for path, lines in found.items() if lines}


def payloads(lines: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (line["payload"] for line in lines if line["payload"].get("type") == kind)


def open_calls(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    closed = {output["call_id"] for output in payloads(lines, "function_call_output")}
    return [call for call in payloads(lines, "function_call") if call["call_id"] not in closed]


def is_finished(lines: list[dict[str, Any]]) -> bool:
    return "parent_thread_id" in lines[0]["payload"] and any(payloads(lines, "agent_message"))


def check_calls(lines: list[dict[str, Any]]) -> None:
    """Each call is closed once, and behind it."""
    calls = [call["call_id"] for call in payloads(lines, "function_call")]
    outputs = [output["call_id"] for output in payloads(lines, "function_call_output")]
    assert len(set(calls)) == len(calls)
    assert sorted(outputs) == sorted(calls)


def check_asked_again(cut: list[dict[str, Any]], lines: list[dict[str, Any]], jobs: list[str]) -> None:
    """A call that was cut is closed without a result, and asked again; a spawn only where no agent came of it."""
    outputs = {output["call_id"]: output["output"] for output in payloads(lines, "function_call_output")}
    assert [outputs[call["call_id"]] for call in cut] == ["aborted"] * len(cut)
    calls = list(payloads(lines, "function_call"))
    for call in cut:
        later = calls[calls.index(call) + 1 :]
        if call["name"] == "spawn_agent":
            assert jobs.count(json.loads(call["arguments"])["message"]) == 1
        else:
            assert call["name"] in [again["name"] for again in later]


def job_told(lines: list[dict[str, Any]]) -> str:
    said = [message["message"] for message in payloads(lines, "user_message")]
    return next(text for text in said if text.startswith("Review file "))


@pytest.mark.slow
@pytest.mark.parametrize(("facts", "delay_s"), POINTS)
def test_killed_team_is_resumed_without_a_loss(facts: int, delay_s: float, tmp_path: Path) -> None:
    print(f"seed {SEED}: killed {delay_s * 1000:.1f} ms behind line {facts}")
    job = Job(FOLDER, tmp_path, AGENTS, "embedded")
    kill_after(job, facts, delay_s)
    before = rollouts(job)
    finished = {path: path.read_bytes() for path, lines in before.items() if is_finished(lines)}
    print(f"{len(finished)} reports, {sum(len(open_calls(lines)) for lines in before.values())} calls cut")
    finish(job)
    assert kept(job).reports == Counter(range(1, AGENTS + 1))
    assert {path: path.read_bytes() for path in finished} == finished
    after = rollouts(job)
    jobs = [job_told(lines) for lines in after.values() if "parent_thread_id" in lines[0]["payload"]]
    assert len(jobs) == AGENTS
    for path, lines in after.items():
        check_calls(lines)
        check_asked_again(open_calls(before.get(path, [])), lines, jobs)


@pytest.mark.slow
def test_reports_of_the_team_are_true(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    blocks = "def f():\n    if 1:\n        for _ in ():\n            pass\n    elif 2:\n        pass\n"
    source = blocks + "\n\ndef g():\n    'Doc.'  # TODO\n"
    (tmp_path / "source" / "a.py").write_text(source)
    (tmp_path / "source" / "b.py").write_text("def (")
    facts = {fact["kind"]: fact for fact in finish(Job(tmp_path / "source", tmp_path / "home", 2, "embedded"))}
    _, _, first, second = [line for line in facts["summary"]["text"].splitlines() if line.startswith("|")]
    assert first == "| 1 | a.py | 10 | 1 of 2 | f (6) | 2 | 1 |"
    assert second == "| 2 | b.py | | | cannot be measured: invalid syntax (<unknown>, line 1) | | 0 |"


def test_the_program_is_read_by_older_pythons() -> None:
    ast.parse(Path(review_team.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))
