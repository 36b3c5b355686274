from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codex_actors import Config, ThreadManager
from codex_actors.protocol.history import InputAcceptedLine, ResponseItemLine
from codex_actors.protocol.items import Message
from codex_actors.rollout.damage import verify
from codex_actors.rollout.reader import get_rollout_history

THREADS = 100
KILLS = 10
WAIT_S = 60.0

WRITING = """
import asyncio, os, sys
from codex_actors import Config, ManagerConfig, ScriptedModel, ThreadManager, UserInput

async def client(number, thread):
    for wave in range(100_000):
        texts = [f"{wave}.{part} of {number}" for part in range(3)]
        replies = [thread.submit(UserInput(text)) for text in texts]
        for text, reply in zip(texts, replies):
            await reply
            os.write(1, f"{thread.rollout_path}\\t{text}\\n".encode())

async def main():
    config = ManagerConfig(durability=sys.argv[2])
    async with ThreadManager(sys.argv[1], model=ScriptedModel(delta_chars=4), config=config) as manager:
        threads = [(await manager.start_thread(Config())).thread for _ in range(int(sys.argv[3]))]
        print("ready", flush=True)
        await asyncio.gather(*(client(number, thread) for number, thread in enumerate(threads)))

asyncio.run(main())
"""


def acknowledged(home: Path, durability: str, after_lines: int) -> dict[Path, list[str]]:
    """What a process said before it was killed behind so many lines."""
    command = [sys.executable, "-c", WRITING, str(home), durability, str(THREADS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(after_lines + 1)]
    process.kill()
    said += [line for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    assert process.wait(timeout=WAIT_S) == -signal.SIGKILL
    inputs: dict[Path, list[str]] = {}
    for line in said[1:]:
        path, text = line.rstrip("\n").split("\t")
        inputs.setdefault(Path(path), []).append(text)
    return inputs


def recorded(path: Path) -> tuple[list[str], list[str]]:
    """The inputs that are items of the history, and those that were accepted in a running turn."""
    items: list[str] = []
    accepted: list[str] = []
    for line in get_rollout_history(path).get_rollout_items():
        if isinstance(line, InputAcceptedLine):
            accepted.append("".join(getattr(item, "text", "") for item in line.payload.items))
        elif isinstance(line, ResponseItemLine) and isinstance(line.payload, Message) and line.payload.role == "user":
            items += [line.payload.text] if " of " in line.payload.text else []
    return items, accepted


def in_order(texts: list[str]) -> list[str]:
    return sorted(set(texts), key=lambda text: tuple(map(int, text.split(" ")[0].split("."))))


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(10))
@pytest.mark.parametrize("durability", ["flush", "fsync"])
def test_killed_writers_lose_and_repeat_nothing(tmp_path: Path, durability: str, round_: int) -> None:
    rng = random.Random(f"{durability} {round_}")
    for kill in range(KILLS):
        home = tmp_path / str(kill)
        said = acknowledged(home, durability, rng.randrange(3 * THREADS * 4))
        paths = list(home.glob("sessions/*/*/*/*.jsonl"))
        assert set(said) <= set(paths)
        texts: dict[Path, list[str]] = {}
        for path in paths:
            items, accepted = recorded(path)
            assert set(said.get(path, ())) <= {*items, *accepted}
            assert (items, accepted) == (in_order(items), in_order(accepted))
            assert all(damage.what == "no JSON" for damage in verify(path).damages)
            texts[path] = in_order([*items, *accepted])
        resume_all(home, texts)


def resume_all(home: Path, before: dict[Path, list[str]]) -> None:
    with ThreadManager(home) as manager:
        resumed = [manager.resume_thread_from_rollout(Config(), path) for path in before]
        threads = [new.get(timeout=WAIT_S).thread for new in resumed]
        for running in [thread.run("after the kill") for thread in threads]:
            assert running.get(timeout=WAIT_S).text == "echo: after the kill"
    for path, texts in before.items():
        assert recorded(path)[0] == texts
        assert verify(path).is_sound
