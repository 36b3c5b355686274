from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from codex_actors.testing import no_leaks
from codex_actors.tools import process
from codex_actors.tools.process import Child, Ending, Stream

R = TypeVar("R")


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    with no_leaks():
        yield


class Log:
    """A sink that keeps what it is given, and says when it has its first line."""

    def __init__(self) -> None:
        self.said: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.has_line = asyncio.Event()

    async def __call__(self, stream: Stream, data: bytes) -> None:
        self.said[stream] += data
        if b"\n" in self.said["stdout"]:
            self.has_line.set()

    def pids(self) -> list[int]:
        return [int(word) for word in self.said["stdout"].split()]


def run(main: Callable[[], Awaitable[R]]) -> R:
    async def bounded() -> R:
        return await asyncio.wait_for(main(), 30)

    return asyncio.run(bounded())


def run_script(script: str, limit_s: float = 20.0) -> tuple[Ending, Log]:
    async def main() -> tuple[Ending, Log]:
        log = Log()
        child = await start(script)
        return await child.run(limit_s, log), log

    return run(main)


async def start(script: str) -> Child:
    return await Child.start(("bash", "-c", script), cwd=Path("/"), env=dict(os.environ))


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    """An orphan that is dead, but not collected by the first process of a container, is gone too."""
    try:
        orphan = psutil.Process(pid)
        for _ in range(int(within_s / 0.01)):
            if orphan.status() == psutil.STATUS_ZOMBIE:
                return True
            threading.Event().wait(0.01)
    except psutil.NoSuchProcess:
        return True
    return False


def test_streams_come_apart_with_the_code() -> None:
    ending, log = run_script("echo out; echo err >&2; cat; exit 3")
    assert log.said == {"stdout": b"out\n", "stderr": b"err\n"}
    assert (ending.returncode, ending.timed_out, ending.left_some) == (3, False, False)


def test_much_output_is_read_to_its_end() -> None:
    ending, log = run_script("head -c 30000000 /dev/zero")
    assert (ending.returncode, len(log.said["stdout"])) == (0, 30_000_000)


def test_limit_ends_the_whole_tree() -> None:
    ending, log = run_script("echo $$; (sleep 60 & echo $!; wait) & wait", limit_s=0.3)
    assert ending.timed_out
    assert len(log.pids()) == 2
    assert all(map(is_gone, log.pids()))


def test_who_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    ending, log = run_script("trap '' TERM; echo $$; sleep 60; sleep 60", limit_s=0.3)
    assert (ending.timed_out, ending.returncode) == (True, -9)
    assert all(map(is_gone, log.pids()))


def test_sigterm_leaves_time_to_clean_up() -> None:
    ending, log = run_script("trap 'echo cleaned; exit 7' TERM; echo go; sleep 60 & wait", limit_s=0.3)
    assert log.said["stdout"] == b"go\ncleaned\n"
    assert ending.returncode == 7


def test_background_process_holding_pipes_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_S", 0.1)
    ending, log = run_script("sleep 60 & echo $!")
    assert (ending.returncode, ending.left_some) == (0, True)
    assert all(map(is_gone, log.pids()))


def test_silent_background_process_is_killed_too() -> None:
    ending, log = run_script("sleep 60 >/dev/null 2>&1 & echo $!")
    assert (ending.returncode, ending.left_some) == (0, False)
    assert all(map(is_gone, log.pids()))


def test_own_session_escapes_without_hanging_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_S", 0.1)
    _, log = run_script("setsid bash -c 'echo $$; exec sleep 60' & sleep 0.3")
    (pid,) = log.pids()
    assert psutil.pid_exists(pid)
    os.kill(pid, 9)


def test_child_that_closes_its_output_is_waited_for() -> None:
    ending, _ = run_script("exec >&- 2>&-; sleep 0.2; exit 5")
    assert ending.returncode == 5


def test_cancelled_run_ends_the_whole_tree() -> None:
    async def main() -> Log:
        log = Log()
        child = await start("sleep 60 & echo $$ $!; wait")
        task = asyncio.create_task(child.run(60, log))
        await log.has_line.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return log

    assert all(map(is_gone, run(main).pids()))


def test_second_cancellation_cuts_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 1000.0)

    async def main() -> Log:
        log = Log()
        child = await start("trap 'echo asked' TERM; echo $$; while :; do sleep 60; done")
        task = asyncio.create_task(child.run(60, log))
        await log.has_line.wait()
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return log

    assert all(map(is_gone, run(main).pids()))


def test_cancelled_start_leaves_no_child() -> None:
    async def main() -> None:
        task = asyncio.create_task(start("sleep 60"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert not [child for child in psutil.Process().children() if "sleep" in child.name()]


def test_failing_sink_ends_the_child() -> None:
    async def main() -> None:
        async def fail(stream: Stream, data: bytes) -> None:
            raise ValueError("full")

        child = await start("echo a; sleep 60")
        with pytest.raises(ValueError, match="full"):
            await child.run(60, fail)
        assert is_gone(child.process.pid)

    run(main)


def test_slow_sink_loses_nothing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_S", 0.1)

    async def main() -> bytes:
        taken: list[bytes] = []

        async def first_is_slow(stream: Stream, data: bytes) -> None:
            taken.append(data)
            if len(taken) == 1:
                await asyncio.Event().wait()

        child = await start("echo a; sleep 0.1; echo b")
        await child.run(20, first_is_slow)
        return b"".join(taken)

    assert run(main) == b"a\nb\n"


def test_program_that_is_not_there_is_told() -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await Child.start(("/no/such/program",), cwd=Path("/"), env={})

    run(main)


HOST = """
import asyncio, gc, os, sys
from pathlib import Path
from codex_actors.tools.process import Child

loop = asyncio.new_event_loop()
child = loop.run_until_complete(Child.start(("sleep", "60"), cwd=Path("/"), env=dict(os.environ)))
print(child.process.pid, flush=True)
"""
LOOP_DIES = """
child._exit.cancel()
loop.run_until_complete(asyncio.wait({child._exit}))
loop.close()
del child
print("closed", flush=True)
sys.stdin.read()
"""


def test_end_of_the_host_ends_its_children() -> None:
    made = subprocess.run([sys.executable, "-c", HOST], capture_output=True, timeout=30, check=True)
    assert is_gone(int(made.stdout))


def test_child_on_a_dead_loop_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", HOST + LOOP_DIES], stdin=-1, stdout=-1) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert host.stdout.readline() == b"closed\n"
        assert is_gone(pid)
        assert host.poll() is None
        host.communicate(timeout=30)
