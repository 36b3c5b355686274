from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import review_team
from _scripted_team import embedded_model, job_message, job_of

from tests._served_model import served

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TEAM = EXAMPLES / "review_team.py"
OLD_PYTHON = f"import runpy, sys; sys.version_info = (3, 9, 0); runpy.run_path({str(TEAM)!r}, run_name='__main__')"
FIRST_LINE = "The embedded model answers: no network, no key."

KEY_LINES: dict[str, tuple[str, ...]] = {
    "quickstart.py": ("Hello. -> echo: Hello. [completed]", "threads: 1"),
    "sync_host.py": (
        "supervisor: 10 letters",
        "actor: 5 letters",
        "deltas: 9 le|tter|s",
        "error: RuntimeError: no answer to that",
        "and the thread goes on: 5 letters",
        "closed",
    ),
    "asyncio_host.py": (
        "100 turns, the last: you said: turn 99",
        "  whole: 'you said: stream this'",
        "the tool said: May they? - Yes.",
        "steered: asked the operator; last heard: Quickly, please.",
        "interrupted: interrupted, text None",
        "and on: you said: a short one",
        "closed",
    ),
    "pykka_host.py": (
        "asked: echo: asked, and waited for",
        "told: task_complete 'echo: told, and not waited for'",
        "told: the thread has ended, shutdown",
        "tally: 2 turns, 1 shutdown, 1 end",
        "after stop_all: unsupported operation: the manager is closed",
        "registered: 0",
    ),
    "fork_a_thread.py": (
        "fork: I know: apples, cherries",
        "a fork of all, by id: I know: apples, pears, plums, figs",
        "parent's SHA-256 unchanged: True",
        "parent: I know: apples, pears, plums, quinces",
        "and now its file has grown: True",
    ),
    "deadlock.py": (
        "DeadlockError: reply.get() would block the event loop that has to answer it; use `await` (or `async for`) on "
        "the manager's own loop, or make the blocking call from another OS thread",
        "await: echo: the right way",
        "get() elsewhere: echo: from another OS thread",
    ),
    "review_team.py": (
        "| # | file | lines | without docstring | longest function | nesting | TODOs |",
        "Asked: Which file should be worked on first?",
        "Forked in front of that, and asked: Which file can be left as it is?",
    ),
    "versus_taskgroup.py": (
        "no fault                nothing                                         nothing",
        "killed                  +5 requests, +4 tool calls                      +2 requests, +1 tool call",
        "interrupted in stream   +3 requests, +2 tool calls                      +1 request",
        "a tool that hangs       nothing, but the process never exits            nothing",
    ),
}


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", KEY_LINES)
def test_example_prints_its_key_lines(name: str, tmp_path: Path) -> None:
    ran = run([str(EXAMPLES / name)], tmp_path, PYTHONDEVMODE="1")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith(FIRST_LINE)
    assert [line for line in KEY_LINES[name] if line not in lines] == []


def test_every_example_has_its_key_lines() -> None:
    assert {path.name for path in EXAMPLES.glob("[!_]*.py")} == set(KEY_LINES)


def test_killed_review_team_loses_nothing(tmp_path: Path) -> None:
    ran = run([str(TEAM), "--agents", "5", "--home", str(tmp_path / "home")], tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    killed = re.search(
        r"^killed at (\d) of 5 reports; resumed in \d\.\d s; 5 reports, 0 lost, 0 twice$", ran.stdout, re.M
    )
    assert killed is not None
    assert int(killed[1]) >= 3
    before, after = re.findall(r"SHA-256 of the parent's rollout (?:before|after): +(\w{64})$", ran.stdout, re.M)
    assert before == after
    resume = re.search(r"CODEX_HOME=(\S+) codex resume (\S+)$", ran.stdout, re.M)
    assert resume is not None
    assert [path.name for path in Path(resume[1]).rglob(f"rollout-*-{resume[2]}.jsonl")] != []


def test_one_argument_says_which_model_answers(tmp_path: Path) -> None:
    ran = run([str(TEAM), "--agents", "2", "--model", "_scripted_team:embedded_model"], tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("_scripted_team:embedded_model answers.\n")
    failed = run([str(TEAM), "--model", "no_such_module:model"], tmp_path)
    assert failed.returncode == 1
    assert (
        failed.stderr.splitlines()[0] == "review_team: --model no_such_module:model: No module named 'no_such_module'"
    )


def test_server_of_a_model_reviews_the_same(tmp_path: Path) -> None:
    with served(embedded_model()) as server:
        options = ["--agents", "5", "--home", str(tmp_path / "home"), "--model", "some-model", "--env-key", "SOME_KEY"]
        ran = run([str(TEAM), *options, "--base-url", server.base_url], tmp_path, SOME_KEY="sk-some-key")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"some-model answers, at {server.base_url}.\n")
    assert "5 reports, 0 lost, 0 twice" in ran.stdout
    assert {request["model"] for request in server.requests} == {"some-model"}
    assert server.keys == {"Bearer sk-some-key"}
    assert "sk-some-key" not in ran.stdout


def test_report_counts_with_prose_around_it(tmp_path: Path) -> None:
    job = review_team.Job(tmp_path, tmp_path, 1, "embedded", lead_id="lead")
    folder = tmp_path / "sessions" / "2025" / "11" / "25"
    folder.mkdir(parents=True)
    said = ["I read it first.", "Here it is:\n\n| 7 | a.py | 1 | 0 of 0 |  | 0 | 0 |\n\nDone."]
    records = [("session_meta", {"id": "child", "parent_thread_id": "lead"})]
    records += [("event_msg", {"type": "agent_message", "message": text}) for text in said]
    lines = [json.dumps({"type": kind, "payload": payload}) for kind, payload in records]
    (folder / "rollout-1.jsonl").write_text("\n".join(lines) + "\n")
    assert review_team.kept(job).reports == {7: 1}


def test_job_is_found_in_other_words() -> None:
    assert job_of(job_message(3, "a/b.py")) == (3, "a/b.py")
    assert job_of("Please review file 12: a b.py \nand be quick.") == (12, "a b.py")
    assert job_of("Look at a.py.\nNow.") == (0, "Look at a.py.")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([str(TEAM), "nowhere"], "review_team: the folder {0}/nowhere cannot be read: No such file or directory"),
        ([str(TEAM), "."], "review_team: there are no Python files in {0}"),
        ([str(TEAM), "--agents", "0"], "review_team: --agents 0: at least one is needed"),
        (
            [str(TEAM), "--env-key", "SOME_KEY"],
            "review_team: --env-key: the key goes to a server; say which with --base-url URL",
        ),
        (
            [str(TEAM), "--base-url", "http://127.0.0.1:9"],
            "review_team: --base-url: which model of that server? --model NAME",
        ),
        (
            [str(TEAM), "--model", "m", "--base-url", "http://127.0.0.1:9", "--env-key", "NO_SUCH_KEY"],
            "review_team: --env-key: the environment variable NO_SUCH_KEY is not set or blank; put the key into it",
        ),
        (["-S", str(TEAM)], "review_team: pykka is not installed for {1}; in a virtual environment: pip install -e ."),
        (["-c", OLD_PYTHON], "review_team: Python 3.11 or newer is needed, and this is 3.9"),
    ],
    ids=["no_folder", "no_python_files", "no_agents", "no_server", "no_name", "no_key", "not_installed", "old_python"],
)
def test_first_failures_get_one_clear_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    ran = run(arguments, tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [says.format(tmp_path, sys.executable)]


def test_quickstart_is_fifteen_lines_long() -> None:
    lines = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 15
