from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
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
    "versus_taskgroup.py": (
        "no fault                nothing                                         nothing",
        "killed                  +5 requests, +4 tool calls                      +2 requests, +1 tool call",
        "interrupted in stream   +3 requests, +2 tool calls                      +1 request",
        "a tool that hangs       nothing, but the process never exits            nothing",
    ),
}


@pytest.mark.parametrize("name", KEY_LINES)
def test_example_prints_its_key_lines(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDEVMODE": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0] == FIRST_LINE
    assert [line for line in KEY_LINES[name] if line not in lines] == []


def test_every_example_has_its_key_lines() -> None:
    assert {path.name for path in EXAMPLES.glob("[!_]*.py")} == set(KEY_LINES)


def test_quickstart_is_fifteen_lines_long() -> None:
    lines = (EXAMPLES / "quickstart.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 15
