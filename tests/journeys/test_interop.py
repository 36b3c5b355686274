from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ForkPoint, Interrupt, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.actors.handle import CodexThread
from codex_actors.protocol.events import TaskComplete
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.ops import Compact, ThreadRollback
from codex_actors.rollout.chain import meta_of, segments_of
from codex_actors.rollout.load import load_rollout
from codex_actors.tools.agents import agent_tools

WAIT_S = 10.0
CHECK_S = 120.0
SHARED = Path(__file__).parents[3] / "shared" / "codex"
CHECK = SHARED / "tools" / "resume_check.py"
DATA = Path(__file__).parents[1] / "rollout" / "data"
BINARIES = [path for path in os.environ.get("CODEX_BIN", "").split(":") if path]
OF_CODEX = [path for folder in (*sorted(SHARED.glob("rollouts/*")), DATA) for path in sorted(folder.glob("*.jsonl"))]
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


KILLED = """
import sys
from codex_actors import Config, ScriptedModel, ThreadManager, UserInput

model = ScriptedModel()
manager = ThreadManager(sys.argv[1], model=model)
manager.__enter__()
thread = manager.start_thread(Config()).get(timeout=10).thread
thread.run("one").get(timeout=10)
gate = model.hold("deltas")
thread.submit(UserInput("two")).get(timeout=10)
assert gate.reached.wait(10)
thread.submit(UserInput("and this")).get(timeout=10)
print(thread.rollout_path, flush=True)
sys.stdin.read()
"""


def killed_in_a_turn(home: Path) -> Path:
    """The rollout of a process that was killed with an answer half streamed and an input that had not its turn yet."""
    command = [sys.executable, "-c", KILLED, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        process.kill()
    return Path(path)


def said_after(left: Path) -> list[str]:
    """What a model of ours is told in the next turn of a file that Codex has left."""
    model = ScriptedModel(["read back"], keep_prompts=True)
    home = left.parents[4]
    with ThreadManager(home, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), left).get(timeout=WAIT_S).thread
        assert thread.run("and now?").get(timeout=WAIT_S).text == "read back"
    return [item.text for item in model.prompts[0].input if isinstance(item, Message)]


def check_resumed(codex: str, path: Path, work: Path, *waiting: str) -> None:
    """The real program goes on with the file, and so do we with what it leaves; `waiting` are inputs that it passes over."""
    left = resumed_by(codex, path, work)
    assert left.read_bytes().startswith(path.read_bytes())
    asked, answered = texts(left)[-2:]
    assert asked == PROMPT
    told = [text for text in said_after(left) if not text.startswith("<")]
    assert told[-3 - len(waiting) :] == [asked, answered, *waiting, "and now?"]


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


def compacted_and_rolled_back(manager: ThreadManager) -> CodexThread:
    thread = turns(manager)
    with thread.events() as stream:
        thread.submit(Compact()).get(timeout=WAIT_S)
        while (event := stream.next_blocking(WAIT_S)) is not None and not isinstance(event.msg, TaskComplete):
            pass
    thread.submit(ThreadRollback(num_turns=2)).get(timeout=WAIT_S)
    return thread


def compacted_behind_a_rollback(manager: ThreadManager) -> CodexThread:
    thread = turns(manager)
    thread.submit(ThreadRollback(num_turns=1)).get(timeout=WAIT_S)
    thread.submit(Compact()).get(timeout=WAIT_S)
    thread.run("after it").get(timeout=WAIT_S)
    return thread


def rolled_back_to_a_summary(manager: ThreadManager) -> CodexThread:
    thread = compacted(manager)
    thread.submit(ThreadRollback(num_turns=1)).get(timeout=WAIT_S)
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
    (compacted_and_rolled_back, None),
    (compacted_behind_a_rollback, None),
    (rolled_back_to_a_summary, None),
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
        check_resumed(codex, path, work)


@pytest.mark.parametrize("is_resumed", [False, True], ids=["as it was left", "resumed here"])
def test_codex_resumes_a_thread_killed_in_a_turn(codex: str, is_resumed: bool, tmp_path: Path, work: Path) -> None:
    path, waiting = killed_in_a_turn(tmp_path / "home"), ["and this"]
    if is_resumed:
        with ThreadManager(tmp_path / "home", model=ScriptedModel()) as manager:
            thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
            thread.run("three").get(timeout=WAIT_S)
        assert texts(path)[-4:] == ["two", "and this", "three", "echo: three"]
        waiting = []
    check_resumed(codex, path, work, *waiting)


@pytest.mark.parametrize("source", OF_CODEX, ids=lambda path: f"{path.parent.name}/{path.stem[-40:]}")
def test_codex_resumes_a_file_of_its_own_behind_us(
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
    check_resumed(codex, fork.rollout_path, work)
    if is_new or (meta_of(source) or {}).get("history_mode") != "paginated":
        check_resumed(codex, path, work)
