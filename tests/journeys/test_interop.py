from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.actors.handle import CodexThread
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.ops import Compact, ThreadRollback
from codex_actors.rollout.chain import meta_of, segments_of
from codex_actors.rollout.forking import ForkPoint
from codex_actors.rollout.load import load_rollout
from codex_actors.tools.agents import agent_tools

WAIT_S = 10.0
CHECK_S = 120.0
SHARED = Path(__file__).parents[3] / "shared" / "codex"
CHECK = SHARED / "tools" / "resume_check.py"
DATA = Path(__file__).parents[1] / "rollout" / "data"
BINARIES = [path for path in os.environ.get("CODEX_BIN", "").split(":") if path]
PAGINATED = [
    path
    for folder in (SHARED / "rollouts" / "0.169.0", DATA)
    for path in sorted(folder.glob("*.jsonl"))
    if (meta_of(path) or {}).get("history_mode") == "paginated"
]
PROMPT = "interop check: what did I say before?"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(not BINARIES or not CHECK.exists(), reason="no CODEX_BIN, or no resume_check.py"),
]


@pytest.fixture(scope="session", params=BINARIES or [""], ids=lambda path: str(path).replace("/", "_")[-40:])
def codex(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def is_new(codex: str) -> bool:
    """Whether this Codex knows paginated files."""
    said = subprocess.run([codex, "--version"], capture_output=True, text=True, timeout=CHECK_S, check=True).stdout
    return int(said.split()[-1].split(".")[1]) > 87


def resumed_by(codex: str, path: Path, work: Path) -> Path:
    """Have the real program list and resume the file and run a turn; the file as it left it."""
    parents = [word for segment in segments_of(path)[:-1] for word in ("--with", str(segment.path))]
    command = [sys.executable, str(CHECK), "--codex", codex, str(path), "--keep", "--work", str(work), *parents]
    if isinstance((meta_of(path) or {}).get("source"), str):  # Codex does not list agents of its own
        command.append("--strict")
    result = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    thread_id = str((meta_of(path) or {})["id"])
    return max(
        work.glob(f"resume-*/sessions/*/*/*/rollout-*{thread_id}*.jsonl"), key=lambda file: file.stat().st_mtime_ns
    )


def texts(path: Path) -> list[str]:
    return [item.text for item in load_rollout(path).history if isinstance(item, Message)]


@tool
def look() -> str:
    return "seen"


CALL = FunctionCall(name="look", arguments="{}", call_id="c1")


def turns(manager: ThreadManager) -> CodexThread:
    thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
    for text in ("one", "two", "three"):
        thread.run(text).get(timeout=WAIT_S)
    return thread


def tools(manager: ThreadManager) -> CodexThread:
    thread = (
        manager.start_thread(Config(tools=(look,), base_instructions="B", user_instructions="U"))
        .get(timeout=WAIT_S)
        .thread
    )
    thread.run("look").get(timeout=WAIT_S)
    return thread


def interrupted(manager: ThreadManager) -> CodexThread:
    thread = turns(manager)
    model = manager._model
    assert isinstance(model, ScriptedModel)
    gate = model.hold(after="deltas")
    running = thread.run("cut off")
    assert gate.reached.wait(WAIT_S)
    thread.submit(Interrupt()).get(timeout=WAIT_S)
    running.get(timeout=WAIT_S)
    gate.open()
    thread.run("after it").get(timeout=WAIT_S)
    return thread


def steered(manager: ThreadManager) -> CodexThread:
    model = manager._model
    assert isinstance(model, ScriptedModel)
    gate = model.hold()
    thread = manager.start_thread(Config(tools=(look,))).get(timeout=WAIT_S).thread
    running = thread.run("look")
    assert gate.reached.wait(WAIT_S)
    thread.submit(UserInput("and this")).get(timeout=WAIT_S)
    gate.open()
    running.get(timeout=WAIT_S)
    return thread


def rolled_back(manager: ThreadManager) -> CodexThread:
    thread = turns(manager)
    thread.submit(ThreadRollback(num_turns=2)).get(timeout=WAIT_S)
    thread.run("other").get(timeout=WAIT_S)
    return thread


def forked(manager: ThreadManager) -> CodexThread:
    fork = manager.fork(turns(manager), ForkPoint.before_user_message(2)).get(timeout=WAIT_S).thread
    fork.run("mine").get(timeout=WAIT_S)
    return fork


def cut(manager: ThreadManager) -> CodexThread:
    fork = manager.fork(tools(manager), ForkPoint.after_item("c1")).get(timeout=WAIT_S).thread
    fork.run("mine").get(timeout=WAIT_S)
    return fork


def compacted(manager: ThreadManager) -> CodexThread:
    thread = turns(manager)
    thread.submit(Compact()).get(timeout=WAIT_S)
    thread.run("after it").get(timeout=WAIT_S)
    return thread


def with_agents(manager: ThreadManager) -> CodexThread:
    thread = manager.start_thread(Config(tools=agent_tools())).get(timeout=WAIT_S).thread
    thread.run("spawn").get(timeout=WAIT_S)
    return thread


SPAWN = FunctionCall(name="spawn_agent", arguments='{"message":"child"}', call_id="c2")
THREADS: list[tuple[Callable[[ThreadManager], CodexThread], Any]] = [
    (turns, None),
    (tools, [[CALL], "done"]),
    (interrupted, None),
    (steered, [[CALL], "done"]),
    (rolled_back, None),
    (forked, None),
    (cut, [[CALL], "done", "mine"]),
    (compacted, None),
    (with_agents, [[SPAWN], "done", "child done"]),
]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "work"
    shutil.rmtree(tmp_path / "work", ignore_errors=True)


@pytest.mark.parametrize(("make", "script"), THREADS, ids=lambda value: getattr(value, "__name__", ""))
def test_codex_resumes_a_thread_of_ours(
    codex: str, make: Callable[[ThreadManager], CodexThread], script: Any, tmp_path: Path, work: Path
) -> None:
    home = tmp_path / "home"
    with ThreadManager(home, model=ScriptedModel(script)) as manager:
        make(manager)
    for path in sorted(home.glob("sessions/*/*/*/*.jsonl")):
        left = resumed_by(codex, path, work)
        assert left.read_bytes().startswith(path.read_bytes())
        assert texts(left)[-2] == PROMPT


@pytest.mark.parametrize("source", PAGINATED, ids=lambda path: path.stem[-40:])
def test_codex_resumes_a_paginated_file_behind_us(
    codex: str, is_new: bool, source: Path, tmp_path: Path, work: Path
) -> None:
    day = tmp_path / "home" / "sessions" / "2026" / "11" / "23"
    day.mkdir(parents=True)
    for segment in segments_of(source):
        shutil.copy(segment.path, day)
    path = day / source.name
    model = ScriptedModel([[CALL], "done", "forked"])
    gate = model.hold()
    with ThreadManager(tmp_path / "home", model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(tools=(look,)), path).get(timeout=WAIT_S).thread
        running = thread.run("one more")
        assert gate.reached.wait(WAIT_S)
        thread.submit(UserInput("and this")).get(timeout=WAIT_S)
        gate.open()
        assert running.get(timeout=WAIT_S).text == "done"
        fork = manager.fork(thread, ForkPoint.end()).get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
    assert fork.rollout_path is not None
    assert texts(resumed_by(codex, fork.rollout_path, work))[-2] == PROMPT
    if is_new:
        left = resumed_by(codex, path, work)
        assert left.read_bytes().startswith(path.read_bytes())
