from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, os, sys, warnings
from codex_actors import Config, ScriptedModel, ThreadManager, UserInput
from codex_actors.errors import UnsupportedOperation

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside OS threads: that is the test
home = sys.argv[1]
model = ScriptedModel()
manager = ThreadManager(home, model=model)
manager.__enter__()
thread = manager.start_thread(Config()).get(timeout=10).thread
thread.run("in the parent").get(timeout=10)
spare = manager.start_thread(Config()).get(timeout=10).thread
control, watch = manager.agent_control(), thread.watch_status()
stream, event = spare.events(), spare.next_event()
gate = model.hold()
running, ended = thread.run("across the fork"), watch.ended()
assert gate.reached.wait(10)

async def awaited(what):
    return await what

calls = {
    "start_thread": lambda: manager.start_thread(Config()),
    "list_models": lambda: manager.list_models(Config()),
    "list_thread_ids": lambda: manager.list_thread_ids(),
    "get_thread": lambda: manager.get_thread(thread.thread_id),
    "remove_thread": lambda: manager.remove_thread(thread.thread_id),
    "resume": lambda: manager.resume_thread_from_rollout(Config(), thread.rollout_path),
    "fork_thread": lambda: manager.fork_thread(None, None, thread.thread_id),
    "agent_control": lambda: manager.agent_control(),
    "close": lambda: manager.close(),
    "submit": lambda: thread.submit({"type": "interrupt"}),
    "run": lambda: thread.run("in the child"),
    "next_event": lambda: thread.next_event(),
    "events": lambda: thread.events(),
    "watch_status": lambda: thread.watch_status(),
    "spawn_agent": lambda: control.spawn_agent(Config(), "in the child"),
    "send_input": lambda: control.send_input(thread.thread_id, "in the child"),
    "interrupt_agent": lambda: control.interrupt_agent(thread.thread_id),
    "shutdown_agent": lambda: control.shutdown_agent(thread.thread_id),
    "get_status": lambda: control.get_status(thread.thread_id),
    "subscribe_status": lambda: control.subscribe_status(thread.thread_id),
    "reply.get": lambda: running.get(),
    "await_reply": lambda: asyncio.run(awaited(running)),
    "event.get": lambda: event.get(),
    "await_event": lambda: asyncio.run(awaited(event)),
    "for": lambda: list(stream),
    "async_for": lambda: asyncio.run(awaited(stream.next())),
    "watch.changed": lambda: watch.changed(),
    "watch.until": lambda: watch.until(lambda status: True),
    "watch.ended": lambda: watch.ended(),
    "ended.get": lambda: ended.get(),
}

child = os.fork()
if child == 0:
    for name, call in calls.items():
        try:
            call()
        except UnsupportedOperation as error:
            print("child", name, "belongs to process" in str(error), flush=True)
        else:
            print("child", name, "was not refused", flush=True)
    del spare, calls, control, stream, watch, thread, running, ended, event, manager
    with ThreadManager(home) as own:
        print("child", own.start_thread(Config()).get(timeout=10).thread.run("own").get(timeout=10).text, flush=True)
    sys.exit(7)
_, status = os.waitpid(child, 0)
print("parent", os.waitstatus_to_exitcode(status), flush=True)
gate.open()
print("parent", running.get(timeout=10).text, flush=True)
print("parent", spare.run("still here").get(timeout=10).text, flush=True)
print("parent", thread.rollout_path, flush=True)
manager.__exit__(None, None, None)
"""


def run_script(home: Path) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(home)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout.splitlines()


def test_a_forked_child_is_refused_and_exits_normally(tmp_path: Path) -> None:
    said = run_script(tmp_path)
    refused = [line.split(maxsplit=2) for line in said if line.startswith("child")]
    assert refused.pop() == ["child", "echo:", "own"]
    assert len(refused) == 30
    assert [line for line in refused if line[2] != "True"] == []
    assert "parent 7" in said


def test_the_parent_goes_on_with_each_line_once(tmp_path: Path) -> None:
    said = [line.removeprefix("parent ") for line in run_script(tmp_path) if line.startswith("parent")]
    assert said[:3] == ["7", "echo: across the fork", "echo: still here"]
    lines = Path(said[3]).read_text().splitlines()
    assert len(lines) == len(set(lines))
    for text in ("in the parent", "across the fork"):
        assert sum(f'"text":"{text}"' in line for line in lines) == 1
        assert sum(f'"text":"echo: {text}"' in line for line in lines) == 1
    assert not any("in the child" in line for line in lines)
