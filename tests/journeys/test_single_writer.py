from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, EventStream, ManagerConfig, ScriptedModel, Shutdown, ThreadManager
from codex_actors.errors import WriterConflict
from codex_actors.protocol.events import TaskComplete, UserMessage, Warning
from codex_actors.rollout.reader import get_rollout_history

WAIT_S = 20.0

POINTS = ["open", "check", "write", "check again", "look at the file", "acknowledge"]

# Stops itself at a point of its first append to a file that it has claimed, and says how that append ended.
STOPS = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from codex_actors.protocol.events import AgentMessage
from codex_actors.rollout.claims import Claims
from codex_actors.rollout.reader import thread_id_of_path
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

home, path, point = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
checks = []

def stop(at):
    if at == point:
        os.kill(os.getpid(), signal.SIGSTOP)

class Stopping(Claims):
    def open(self, path):
        super().open(path)
        stop("open")

    def check(self, path):
        checks.append(path)
        stop("check" if len(checks) == 1 else "check again")
        super().check(path)
        stop("write" if len(checks) == 1 else "look at the file")

    def check_written(self, path, inode):
        super().check_written(path, inode)
        stop("acknowledge")

claims = Stopping(home, lambda: datetime.now(UTC), is_synced=False)
claims.claim(path, thread_id_of_path(path))
writer = RolloutWriter("flush", claims=claims)
line = AgentMessage(message="of the first owner")
results = writer.write([Append(path, "2026-01-08T10:11:12.000Z", (line,), False)])
print("acknowledged" if results == [None] else type(results[0]).__name__, len(checks), flush=True)
writer.close()
"""

# Races another process for one thread, round by round, and says which rounds it has won.
RACES = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from codex_actors.errors import WriterConflict
from codex_actors.protocol.events import AgentMessage
from codex_actors.rollout.claims import Claims
from codex_actors.rollout.reader import thread_id_of_path
from codex_actors.rollout.owed import Append
from codex_actors.rollout.writer import RolloutWriter

home, path, hears, tells, rounds = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
claims = Claims(home, lambda: datetime.now(UTC), is_synced=False)
writer = RolloutWriter("flush", claims=claims)

def meet():
    os.write(tells, b".")
    assert os.read(hears, 1) == b"."

def append(*lines, is_last=False):
    assert writer.write([Append(path, "2026-01-08T10:11:12.000Z", lines, False, is_last)]) == [None]

for number in range(rounds):
    meet()
    try:
        claims.claim(path, thread_id_of_path(path))
        append(AgentMessage(message=str(number)))
    except WriterConflict:
        meet()
    else:
        print(number, flush=True)
        meet()
        append(is_last=True)
    meet()
writer.close()
"""

FORKS = """
import os, sys, warnings
from codex_actors import Config, ThreadManager

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside OS threads: that is the test
children = []
manager = ThreadManager(sys.argv[1])
manager.__enter__()
threads = [manager.start_thread(Config()).get(timeout=20).thread for _ in range(10)]
for number in range(10):
    replies = [thread.run(f"{number}") for thread in threads]
    child = os.fork()
    if child == 0:
        sys.exit(0)
    children.append(child)
    for reply in replies:
        reply.get(timeout=20)
assert {os.waitpid(child, 0)[1] for child in children} == {0}
print(*(thread.rollout_path for thread in threads), sep="\\n", flush=True)
manager.__exit__(None, None, None)
"""


def kept(manager: ThreadManager, *texts: str) -> Path:
    thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
    for text in texts:
        thread.run(text).get(timeout=WAIT_S)
    assert thread.rollout_path is not None
    return thread.rollout_path


def free(home: Path) -> Path:
    with ThreadManager(home) as manager:
        return kept(manager, "hello")


def messages(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["payload"]["message"] for line in lines if line["payload"].get("type") == "agent_message"]


def resumed(manager: ThreadManager, path: Path, *, take_over: bool = False) -> Any:
    new = manager.resume_thread_from_rollout(Config(), path, take_over=take_over).get(timeout=WAIT_S)
    return new.thread


def test_two_managers_do_not_share_a_thread(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "hello")
        with pytest.raises(WriterConflict, match=f"process {os.getpid()}") as caught:
            resumed(second, path)
        assert caught.value.alive
        fork = second.fork_thread(None, None, path).get(timeout=WAIT_S).thread
        assert fork.run("aside").get(timeout=WAIT_S).text == "echo: aside"
    assert messages(path) == ["echo: hello"]


def test_thread_that_has_ended_is_free(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "one")
        thread = first.get_thread(get_rollout_history(path).conversation_id).get(timeout=WAIT_S)  # type: ignore[union-attr]
        thread.submit(Shutdown())
        thread.watch_status().ended().get(timeout=WAIT_S)
        first.close().get(timeout=WAIT_S)
        assert resumed(second, path).run("two").get(timeout=WAIT_S).text == "echo: two"
    assert messages(path) == ["echo: one", "echo: two"]


def test_failed_resume_leaves_the_thread_free(tmp_path: Path) -> None:
    path = free(tmp_path)
    whole = path.read_bytes()
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path.write_bytes(b"")
        with pytest.raises(Exception, match="empty session file"):
            resumed(first, path)
        path.write_bytes(whole)
        assert resumed(second, path).run("on").get(timeout=WAIT_S).text == "echo: on"


def test_ephemeral_resume_needs_no_claim(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "hello")
        new = second.resume_thread_from_rollout(Config(ephemeral=True), path).get(timeout=WAIT_S)
        assert new.thread.run("aside").get(timeout=WAIT_S).text == "echo: aside"
    assert messages(path) == ["echo: hello"]


def told(events: EventStream) -> object:
    event = events.next_blocking(WAIT_S)
    assert event is not None
    return event.msg


def test_take_over_ends_the_owners_thread(tmp_path: Path) -> None:
    model = ScriptedModel()
    with ThreadManager(tmp_path, model=model) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "one")
        thread = resumed(first, path)
        events, gate = thread.events(), model.hold()
        running = thread.run("two")
        assert gate.reached.wait(WAIT_S)
        while not isinstance(told(events), UserMessage):
            pass
        taken = resumed(second, path, take_over=True)
        gate.open()
        with pytest.raises(WriterConflict):
            running.get(timeout=WAIT_S)
        ended = thread.watch_status().ended().get(timeout=WAIT_S)
        assert taken.run("three").get(timeout=WAIT_S).text == "echo: three"
    assert (ended.reason, ended.message.startswith("process")) == ("fenced", True)
    seen = [event.msg for event in events]
    assert [f"{path.name}.fenced" in msg.message for msg in seen if isinstance(msg, Warning)] == [True]
    assert not any(isinstance(msg, TaskComplete) and msg.error is None for msg in seen)
    assert messages(path) == ["echo: one", "echo: three"]
    assert "echo: two" in Path(f"{path}.fenced").read_text()


def test_fenced_thread_can_be_taken_back(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "one")
        thread = resumed(first, path)
        resumed(second, path, take_over=True).run("two").get(timeout=WAIT_S)
        with pytest.raises(WriterConflict):
            thread.run("lost").get(timeout=WAIT_S)
        assert thread.watch_status().ended().get(timeout=WAIT_S).reason == "fenced"
        again = resumed(first, path, take_over=True)
        assert again.run("three").get(timeout=WAIT_S).text == "echo: three"
    assert messages(path) == ["echo: one", "echo: two", "echo: three"]


def test_fenced_thread_is_taken_back_before_it_knows(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first, "one")
        thread = resumed(first, path)
        resumed(second, path, take_over=True).run("two").get(timeout=WAIT_S)
        again = resumed(first, path, take_over=True)
        assert again is not thread
        assert again.run("three").get(timeout=WAIT_S).text == "echo: three"
        assert thread.watch_status().ended().get(timeout=WAIT_S).reason == "fenced"
        assert resumed(first, path) is again
    assert messages(path) == ["echo: one", "echo: two", "echo: three"]


def test_trust_locks_nothing(tmp_path: Path) -> None:
    with ThreadManager(tmp_path, config=ManagerConfig(single_writer="trust")) as manager:
        kept(manager, "hello")
    assert [path.name for path in tmp_path.iterdir()] == ["sessions"]


def test_nothing_is_locked_before_the_first_turn(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        assert list(tmp_path.iterdir()) == []
        thread.run("hello").get(timeout=WAIT_S)
        assert len(list((tmp_path / "codex_actors" / "owners").iterdir())) == 1
    assert list((tmp_path / "codex_actors").rglob("*.json")) == []


def test_killed_managers_thread_is_taken_unasked(tmp_path: Path) -> None:
    script = (
        "import os, sys; from codex_actors import Config, ThreadManager\n"
        "manager = ThreadManager(sys.argv[1]).__enter__()\n"
        "thread = manager.start_thread(Config()).get(timeout=20).thread\n"
        "thread.run('one').get(timeout=20); print(thread.rollout_path, flush=True); os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    path = Path(killed.stdout.strip())
    with ThreadManager(tmp_path) as manager:
        assert resumed(manager, path).run("two").get(timeout=WAIT_S).text == "echo: two"
    assert messages(path) == ["echo: one", "echo: two"]


@pytest.mark.parametrize("point", POINTS)
def test_stopped_owner_acknowledges_nothing_that_is_lost(tmp_path: Path, point: str) -> None:
    path = free(tmp_path)
    arguments = [sys.executable, "-c", STOPS, str(tmp_path), str(path), point]
    owner = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert os.WIFSTOPPED(os.waitpid(owner.pid, os.WUNTRACED)[1])
    with ThreadManager(tmp_path) as manager:
        with pytest.raises(WriterConflict):
            resumed(manager, path)
        thread = resumed(manager, path, take_over=True)
        thread.run("taken").get(timeout=WAIT_S)
        os.kill(owner.pid, signal.SIGCONT)
        said, _ = owner.communicate(timeout=WAIT_S)
        thread.run("on").get(timeout=WAIT_S)
    was_written, was_acknowledged = POINTS.index(point) > POINTS.index("write"), point == "acknowledge"
    assert said.startswith("acknowledged") is was_acknowledged
    theirs = ["of the first owner"] if was_written else []
    assert messages(path) == ["echo: hello", *theirs, "echo: taken", "echo: on"]
    fenced = Path(f"{path}.fenced")
    assert (fenced.exists() and "of the first owner" in fenced.read_text()) is not was_acknowledged


def test_forks_amid_turns_cost_no_line(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", FORKS, str(tmp_path)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    for path in map(Path, ended.stdout.split()):
        assert messages(path) == [f"echo: {number}" for number in range(10)]
        assert max(Counter(path.read_text().splitlines()).values()) == 1


@pytest.mark.slow
def test_of_two_processes_one_writes_each_time(tmp_path: Path) -> None:
    path, rounds = free(tmp_path), 1_000
    (a_hears, b_tells), (b_hears, a_tells) = os.pipe(), os.pipe()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACES, str(tmp_path), str(path), *map(str, (*ends, rounds))],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=ends,
        )
        for ends in ((a_hears, a_tells), (b_hears, b_tells))
    ]
    for end in (a_hears, b_tells, b_hears, a_tells):
        os.close(end)
    won = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(map(int, won[0] + won[1])) == list(range(rounds))
    assert messages(path) == ["echo: hello", *map(str, range(rounds))]
    assert all(won)
