"""The same small job twice, on plain `asyncio.TaskGroup` and on this runtime, under four faults. What does each lose?

The job: four files, a conversation about each, two tool calls and a report in each conversation. `Plain` is meant to be good
code: tools have a deadline, one that fails ends no other review, a report is kept as soon as it is there, and the next start
goes on behind those that are kept. What it lacks can all be added by hand; the last lines say what that takes.

Both halves pay the same bill: a line for each model request and for each tool call.
"""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from codex_actors import CodexThread, Config, Interrupt, ManagerConfig, NewThread, Prompt, ThreadManager, tool
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, TextDelta
from codex_actors.protocol.events import AgentMessage, UserMessage
from codex_actors.protocol.history import EventMsgLine
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, OutputText
from codex_actors.rollout.reader import get_rollout_history

FOLDER = Path(__file__).parent
FILES = ("asyncio_host.py", "deadlock.py", "fork_a_thread.py", "pykka_host.py")
HANGS, STALLS = FILES[2:]  # where a tool hangs, and where the model stalls in the middle of its report
TOOL_S = 1.0
PATIENCE_S = 2.0
STANDSTILL_S = 30.0

# --- what both halves use: two tools, a model, a bill ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """What the model answers when it wants a tool."""

    tool: str


class Model:
    """Stands in for a model: it asks for `measure`, then for `todos`, then it streams a report of what they said."""

    def __init__(self, home: Path) -> None:
        self.bill_path = home / "bill"
        self.is_stalled = asyncio.Event()
        self.stalls: set[str] = set()

    async def stream(self, name: str, outputs: Sequence[str]) -> AsyncIterator[str | Call]:
        """An answer in pieces. `outputs` are those of the tools so far, in order."""
        pay(self.bill_path, "request", name)
        await asyncio.sleep(0.01)
        if len(outputs) < 2:
            yield Call(("measure", "todos")[len(outputs)])
            return
        yield f"{name}: "
        if name in self.stalls:
            pay(self.bill_path, "stalled", name)
            self.is_stalled.set()
            await asyncio.Event().wait()
        yield ", ".join(outputs)


class Desk:
    """The tools. Both are sync, as most code that measures things is."""

    def __init__(self, home: Path, hangs: str | None = None) -> None:
        self.bill_path = home / "bill"
        self.hangs = hangs

    def measure(self, name: str) -> str:
        """How many functions a file has."""
        pay(self.bill_path, "tool", name)
        nodes = ast.walk(ast.parse((FOLDER / name).read_text(encoding="utf-8")))
        return f"{sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)} functions"

    def todos(self, name: str) -> str:
        """How many TODOs a file has."""
        pay(self.bill_path, "tool", name)
        if name == self.hangs:
            pay(self.bill_path, "stalled", name)
            threading.Event().wait()
        return f"{(FOLDER / name).read_text(encoding='utf-8').count('TODO')} TODOs"


def pay(bill_path: Path, what: str, name: str) -> None:
    """Add a line to the bill, which several processes may share."""
    with bill_path.open("a", encoding="utf-8") as file:
        file.write(f"{what} {name}\n")


# --- the job on asyncio.TaskGroup --------------------------------------------------------------------------------------


class Plain:
    """Reviews what has no report yet, all at once. `tasks` are for those who want to cancel one."""

    def __init__(self, home: Path, model: Model, desk: Desk, tool_s: float = TOOL_S) -> None:
        self.path = home / "reports.jsonl"
        self.model, self.tools, self.tool_s = model, {"measure": desk.measure, "todos": desk.todos}, tool_s
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def kept(self) -> list[tuple[str, str]]:
        """Each report that is kept: its file's name, and its text."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [(name, text) for name, text in map(json.loads, lines)]

    async def run(self) -> None:
        done = dict(self.kept())
        async with asyncio.TaskGroup() as group:
            for name in FILES:
                if name not in done:
                    self.tasks[name] = group.create_task(self.review(name))

    async def review(self, name: str) -> None:
        """Ask, call the tool that is wanted, ask again; until there is a report."""
        outputs: list[str] = []
        while True:
            text, call = "", None
            async with aclosing(self.model.stream(name, outputs)) as answer:  # type: ignore[type-var]
                async for piece in answer:
                    if isinstance(piece, Call):
                        call = piece
                    else:
                        text += piece
            if call is None:
                break
            outputs.append(await self.output(call.tool, name))
        with self.path.open("a", encoding="utf-8") as file:  # one write of one short line: no half report is kept
            file.write(json.dumps([name, text]) + "\n")

    async def output(self, tool_name: str, name: str) -> str:
        """What the model is to read, whatever the tool does: an exception would cancel the whole group."""
        try:
            async with asyncio.timeout(self.tool_s):
                return await asyncio.to_thread(self.tools[tool_name], name)
        except TimeoutError:
            return f"tool {tool_name} did not finish within {self.tool_s:g} s"
        except Exception as error:
            return f"tool {tool_name} failed: {error!r}"


# --- the job on codex_actors -------------------------------------------------------------------------------------------


class Ours:
    """Reviews what has no report yet, all at once. A report is a message of the model that is whole."""

    def __init__(self, home: Path, model: Model, desk: Desk, tool_s: float = TOOL_S) -> None:
        self.home, self.model = home, model
        self.manager = ThreadManager(home, model=Provider(model), config=ManagerConfig(tool_timeout_s=tool_s))
        self.config = Config(tools=(tool(desk.measure), tool(desk.todos)))
        self.threads: dict[str, CodexThread] = {}

    def rollout_paths(self) -> list[Path]:
        return sorted((self.home / "sessions").rglob("rollout-*.jsonl"))

    def kept(self) -> list[tuple[str, str]]:
        """Each report that is kept: its file's name, and its text."""
        lines = [line for path in self.rollout_paths() for line in get_rollout_history(path).get_rollout_items()]
        events = [line.payload for line in lines if isinstance(line, EventMsgLine)]
        texts = [event.message for event in events if isinstance(event, AgentMessage)]
        return [(text.partition(":")[0], text) for text in texts]

    async def run(self) -> None:
        resumed = [await self.manager.resume_thread_from_rollout(self.config, path) for path in self.rollout_paths()]
        self.threads = {subject_of(new): new.thread for new in resumed}
        done = dict(await asyncio.to_thread(self.kept))
        async with asyncio.TaskGroup() as group:
            for name in FILES:
                if name not in done:
                    group.create_task(self.review(name))

    async def review(self, name: str) -> None:
        """Begin the conversation, or go on where it was cut."""
        words = "Go on." if name in self.threads else f"Review {name}"
        if name not in self.threads:
            self.threads[name] = (await self.manager.start_thread(self.config)).thread
        await self.threads[name].run(words)


def subject_of(new: NewThread) -> str:
    """The file that a thread's first user message names."""
    messages = [msg.message for msg in new.session_configured.initial_messages or () if isinstance(msg, UserMessage)]
    return messages[0].removeprefix("Review ")


class Provider:
    """The same model, as this runtime speaks to one."""

    name = "scripted"

    def __init__(self, model: Model) -> None:
        self.model = model

    def open(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext()

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        said = [item.text for item in prompt.input if isinstance(item, Message) and item.text.startswith("Review ")]
        outputs = [str(item.output) for item in prompt.input if isinstance(item, FunctionCallOutput)]
        name = said[0].removeprefix("Review ")
        whole = ""
        # What was cut is closed as "aborted" in the history: the model sees that, and asks again.
        async for piece in self.model.stream(name, [output for output in outputs if output != "aborted"]):
            if isinstance(piece, Call):
                arguments = json.dumps({"name": name})
                yield ItemDone(FunctionCall(call_id=f"call_{len(outputs)}", name=piece.tool, arguments=arguments))
            else:
                if not whole:
                    yield ItemAdded(Message(role="assistant"))
                whole += piece
                yield TextDelta(piece)
        if whole:
            yield ItemDone(Message(role="assistant", content=(OutputText(text=whole),)))
        yield Completed(None)


# --- the faults. Each runs in a process of its own ---------------------------------------------------------------------


async def undisturbed(half: Plain | Ours) -> None:
    """The job; it goes on behind what is kept."""
    await half.run()


async def interrupted(half: Plain | Ours) -> None:
    """A user stops one review in the middle of its report, and then wants it after all."""
    half.model.stalls.add(STALLS)
    running = asyncio.create_task(half.run())
    await half.model.is_stalled.wait()
    half.model.stalls.clear()
    if isinstance(half, Plain):
        half.tasks[STALLS].cancel()
    else:
        await half.threads[STALLS].submit(Interrupt())
    await running
    await half.review(STALLS)


async def resumed_twice(half: Plain | Ours) -> None:
    """Two who do not know of each other resume the job in one process: a second click, a retried request."""
    await asyncio.gather(half.run(), half.run())


async def stalling(half: Plain | Ours) -> None:
    """Comes to a stop in the middle of a tool call and of a report, to be killed there."""
    half.model.stalls.add(STALLS)
    await half.run()


FAULTS = {each.__name__: each for each in (undisturbed, interrupted, resumed_twice, stalling)}


async def under(fault: str, half: Plain | Ours) -> None:
    """The job, with what it has to close."""
    async with half.manager if isinstance(half, Ours) else nullcontext():
        await FAULTS[fault](half)


def work(name: str, fault: str, home: Path, hangs: str | None) -> None:
    """What a child process does. It says how long the job took."""
    tool_s = STANDSTILL_S if fault == "stalling" else TOOL_S
    model, desk = Model(home), Desk(home, hangs)
    began_s = time.monotonic()
    half: Plain | Ours = Plain(home, model, desk, tool_s) if name == "plain" else Ours(home, model, desk, tool_s)
    with asyncio.Runner() as runner:
        runner.run(under(fault, half))
        print(f"{time.monotonic() - began_s:.2f} s", flush=True)


# --- the comparison ----------------------------------------------------------------------------------------------------

Child: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what brings it about."""

    label: str
    fault: str
    is_killed_before: bool = False
    hangs: str | None = None


ROWS = (
    Row("no fault", "undisturbed"),
    Row("killed", "undisturbed", is_killed_before=True),
    Row("killed, resumed twice", "resumed_twice", is_killed_before=True),
    Row("interrupted in stream", "interrupted"),
    Row("a tool that hangs", "undisturbed", hangs=HANGS),
)

BY_HAND = """
+ is what was asked or done once more than without the fault. By hand, the left half gets there, too:
  killed         save each conversation behind each step, with the calls that are open in it
  resumed twice  share one table of the conversations at work (two processes: neither half keeps them apart)
  interrupted    keep a conversation outside of its task
  hangs          a daemon OS thread for each tool call, instead of those of asyncio, which are joined at the exit
On the right, two who resume at once both say "Go on." to the same thread: what was done already is answered once more."""


def start(name: str, fault: str, home: Path, hangs: str | None = None) -> Child:
    """A child process that does the job, under this fault."""
    command = [sys.executable, __file__, name, fault, str(home), *([hangs] if hangs else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def bill(home: Path) -> Counter[str]:
    """How many requests, tool calls and standstills there were."""
    path = home / "bill"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return Counter(line.split()[0] for line in lines)


def kept(name: str, home: Path) -> list[tuple[str, str]]:
    """The reports that are on disk."""
    return (Plain if name == "plain" else Ours)(home, Model(home), Desk(home)).kept()


def kill_in_the_middle(name: str, home: Path) -> None:
    """SIGKILL, with two reports kept, one tool call and one report under way."""
    with start(name, "stalling", home, HANGS) as child:
        until_s = time.monotonic() + STANDSTILL_S
        while (bill(home)["stalled"], len(kept(name, home))) != (2, 2) and time.monotonic() < until_s:
            time.sleep(0.02)
        child.kill()


def cell(row: Row, name: str, home: Path) -> tuple[str, str]:
    """Do the job under this fault: what was lost, and how long it took."""
    if row.is_killed_before:
        kill_in_the_middle(name, home)
    with start(name, row.fault, home, row.hangs) as child:
        assert child.stdout is not None
        took = child.stdout.readline().strip()
        try:
            child.wait(PATIENCE_S)
            end = ""
        except subprocess.TimeoutExpired:
            end = ", but the process never exits"
            child.kill()
    return lost(name, home) + end, took


def lost(name: str, home: Path) -> str:
    """What the bill and the files say."""
    paid, names = bill(home), Counter(report[0] for report in kept(name, home))
    found = (
        ("+", paid["request"] - 3 * len(FILES), "request", ""),
        ("+", paid["tool"] - 2 * len(FILES), "tool call", ""),
        ("", names.total() - len(names), "report", " twice"),
        ("", len(FILES) - len(names), "report", " lost"),
    )
    said = [f"{sign}{count} {noun}{'s' * (count != 1)}{end}" for sign, count, noun, end in found if count]
    return ", ".join(said) or "nothing"


def both(row: Row) -> list[tuple[str, str]]:
    """The cells of a row, each half in a home of its own."""
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(2) as pool:
        homes = {name: Path(home, name) for name in ("plain", "ours")}
        for path in homes.values():
            path.mkdir()
        return list(pool.map(partial(cell, row), homes, homes.values()))


def main() -> None:
    """A row for each fault."""
    print("The embedded model answers: no network, no key.")
    print(f"{'what is lost':24}{'asyncio.TaskGroup':48}codex_actors")
    took = {}
    for row in ROWS:
        (left, left_took), (right, right_took) = both(row)
        took[row.label] = f"Without a fault the left half takes {left_took}, the right one {right_took}."
        print(f"{row.label:24}{left:48}{right}", flush=True)
    print(BY_HAND)
    print(took["no fault"])


if __name__ == "__main__":
    if len(sys.argv) > 3:
        work(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
    else:
        main()
