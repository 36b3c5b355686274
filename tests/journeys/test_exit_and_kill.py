from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codex_actors import Config, Resumed, ScriptedModel, ThreadManager
from codex_actors.protocol.history import InputAcceptedLine, ResponseItemLine
from codex_actors.protocol.items import Message
from codex_actors.rollout.reader import get_rollout_history

THREADS = 100
CLOSE_TIMEOUT_S = 5.0

RUNNING_TURNS = """
import sys, time
from codex_actors import Config, ManagerConfig, ScriptedModel, ThreadManager, UserInput
from codex_actors.protocol.ops import parse_input

home, durability, count, close_timeout_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
model = ScriptedModel(delta_chars=1)
gate = model.hold("deltas")
manager = ThreadManager(home, model=model, config=ManagerConfig(durability=durability, close_timeout_s=close_timeout_s))
manager.__enter__()
threads = [manager.start_thread(Config()).get(timeout=10).thread for _ in range(count)]

def answered(number, name, reply):
    reply.get(timeout=10)
    print(threads[number].rollout_path, f"{name} of {number}", sep="\\t", flush=True)

def submit(name):
    replies = [thread.submit(parse_input(f"{name} of {number}")) for number, thread in enumerate(threads)]
    for number, reply in enumerate(replies):
        answered(number, name, reply)

submit("first")
assert gate.reached.wait(10)
submit("steered")
"""

FORGET = """
print("exits", flush=True)
"""

WAIT = """
time.sleep(60)
"""

ON_A_LOOP = """
import asyncio, sys
from codex_actors import Config, ManagerConfig, ScriptedModel, ThreadManager
from codex_actors.protocol.ops import parse_input

home, durability, count, close_timeout_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])

async def main():
    global manager
    model = ScriptedModel()
    gate = model.hold("deltas")
    config = ManagerConfig(durability=durability, close_timeout_s=close_timeout_s)
    manager = ThreadManager(home, model=model, config=config)
    await manager.__aenter__()
    threads = [(await manager.start_thread(Config())).thread for _ in range(count)]
    for name in ("first", "steered"):
        for number, thread in enumerate(threads):
            await thread.submit(parse_input(f"{name} of {number}"))
            print(thread.rollout_path, f"{name} of {number}", sep="\\t", flush=True)

asyncio.run(main())
print("exits", flush=True)
"""


def start(script: str, home: Path, durability: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", script, str(home), durability, str(THREADS), str(CLOSE_TIMEOUT_S)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def accepted_inputs(said: list[str]) -> dict[Path, list[str]]:
    inputs: dict[Path, list[str]] = {}
    for line in said:
        path, text = line.rstrip("\n").split("\t")
        inputs.setdefault(Path(path), []).append(text)
    return inputs


def recorded_inputs(path: Path) -> list[str]:
    """The texts of the user, as items of the history or as accepted inputs that wait."""
    texts = {}
    for line in get_rollout_history(path).get_rollout_items():
        if isinstance(line, InputAcceptedLine):
            accepted = line.payload
            texts[accepted.submission_id] = "".join(getattr(item, "text", "") for item in accepted.items)
        elif isinstance(line, ResponseItemLine) and isinstance(line.payload, Message) and line.payload.role == "user":
            texts[line.submission_id or line.payload.text] = line.payload.text
    return [text for text in texts.values() if " of " in text]


def check_all_recorded(said: list[str]) -> None:
    inputs = accepted_inputs(said)
    assert len(inputs) == THREADS
    assert {path: recorded_inputs(path) for path in inputs} == inputs


@pytest.mark.parametrize("durability", ["memory", "flush"])
@pytest.mark.parametrize("script", [RUNNING_TURNS + FORGET, ON_A_LOOP], ids=["own_loop", "hosts_loop"])
def test_a_forgotten_manager_writes_all_and_exits(tmp_path: Path, script: str, durability: str) -> None:
    process = start(script, tmp_path, durability)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line == "exits\n":
            break
        said.append(line)
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=30)
    # The one limit here that is a promise: an exit takes no longer than `close_timeout_s`.
    assert time.monotonic() - began_s < CLOSE_TIMEOUT_S + 1
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert len(said) == 2 * THREADS
    check_all_recorded(said)


FORGET_AT_ONCE = """
import sys
from codex_actors import Config, ManagerConfig, ThreadManager, UserInput

manager = ThreadManager(sys.argv[1], config=ManagerConfig(durability="memory"))
manager.__enter__()
thread = manager.start_thread(Config()).get(timeout=10).thread
thread.submit(UserInput("1 of 1")).get(timeout=10)
print(thread.rollout_path)
"""


def test_an_exit_before_the_writer_began_writes_all(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORGET_AT_ONCE, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr == ""
    assert recorded_inputs(Path(ended.stdout.strip())) == ["1 of 1"]


@pytest.mark.slow
def test_a_killed_process_loses_no_accepted_input(tmp_path: Path) -> None:
    process = start(RUNNING_TURNS + WAIT, tmp_path, "flush")
    assert process.stdout is not None
    # In the middle: half of the steered inputs are answered, the others are on their way.
    said = [process.stdout.readline() for _ in range(THREADS + THREADS // 2)]
    process.kill()
    # Not `communicate()`: it would lose what `readline()` has read ahead. The kill may cut the last line.
    said += [line for line in process.stdout.readlines() if line.endswith("\n")]
    assert process.wait(timeout=30) == -signal.SIGKILL
    inputs = accepted_inputs(said)
    assert len(inputs) == THREADS
    for path, texts in inputs.items():
        assert set(texts) <= set(recorded_inputs(path))
    resume_all(tmp_path, inputs)


def resume_all(home: Path, inputs: dict[Path, list[str]]) -> None:
    with ThreadManager(home) as manager:
        for path, texts in inputs.items():
            history = get_rollout_history(path)
            assert isinstance(history, Resumed)
            thread = manager.resume_thread_with_history(Config(), history).get(timeout=10).thread
            assert thread.rollout_path == path
            assert thread.run("after the kill").get(timeout=10).text == "echo: after the kill"
            inputs_now = recorded_inputs(path)
            assert inputs_now[: len(texts)] == texts


def test_a_turn_after_the_kill_sees_what_waited(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", RUNNING_TURNS + WAIT, str(tmp_path), "flush", "1", "5"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path([process.stdout.readline() for _ in range(2)][1].split("\t")[0])
        process.kill()
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        new = manager.resume_thread_from_rollout(Config(), path).get(timeout=10)
        assert model.requests == 0
        new.thread.run("third").get(timeout=10)
    seen = [item.text for item in model.prompts[0].input if isinstance(item, Message) and item.role == "user"]
    assert [text for text in seen if not text.startswith("<")] == ["first of 0", "steered of 0", "third"]
