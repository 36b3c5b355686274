"""The embedded model of `review_team.py`: it answers for the lead and for the reviewers, from what their tools told them.

It drives the tools that a real model would drive, and like one it knows nothing but its prompt: that is why it can go on
in another process where the first one was killed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codex_actors import Prompt, ScriptedModel
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem
from codex_actors.rollout.replay import ABORTED
from codex_actors.rollout.truncation import is_user_message

ANSWER_S = 0.005
READ_CHAR_S = 5e-6
"""How long an answer takes, and each character of what is new in its prompt. A model elsewhere takes longer."""

GO_ON = "You were cut off. Go on."
UNHEARD = " These have been cut off with you, or you have not heard of them:"
FIRST_QUESTION = "Which file should be worked on first?"
OTHER_QUESTION = "Which file can be left as it is?"

TABLE_HEAD = """\
| # | file | lines | without docstring | longest function | nesting | TODOs |
|--:|---|--:|--:|---|--:|--:|
"""

SUMMARY_HEAD = "# Review of"

_JOB = re.compile(r"[Rr]eview file (\d+): *(.+)")
_MEASURED = re.compile(r"\| \d+ \| .* \| \d+ of \d+ \| ")
_LISTED = re.compile(r"^(.+) \(([\d,]+) bytes\)$", re.MULTILINE)
_READ_ON = re.compile(r"read on with first_line=(\d+)\]…$")


def review_request(count: int, at_once: int) -> str:
    """What the user asks of the lead."""
    return f"Review this folder: its {count} largest Python files, at most {at_once} at once."


def job_message(number: int, file: str) -> str:
    """What the lead asks of a reviewer."""
    return f"Review file {number}: {file}"


def go_on(unheard: Mapping[str, tuple[int, str]]) -> str:
    """What a lead is told after a kill: by agent id, whose report it does not have, and what they review."""
    lines = [f"\n{agent}: {job_message(number, file)}" for agent, (number, file) in unheard.items()]
    return GO_ON + UNHEARD * bool(lines) + "".join(lines)


def job_of(message: str) -> tuple[int, str]:
    """The number and the file of a `job_message`, also of one in other words; 0 where it names no number."""
    found = _JOB.search(message)
    return (int(found[1]), found[2].strip()) if found else (0, message.strip().partition("\n")[0])


async def _answer(prompt: Prompt) -> str | list[ResponseItem]:
    new = sum(len(str(item.output)) for item in prompt.input[-2:] if isinstance(item, FunctionCallOutput))
    await asyncio.sleep(ANSWER_S + READ_CHAR_S * new)
    is_lead = any(spec["name"] == "spawn_agent" for spec in prompt.tools)
    return _lead(prompt.input) if is_lead else _review(prompt.input)


def embedded_model() -> ScriptedModel:
    """One model for all."""
    return ScriptedModel(_answer, name="embedded")


def _said(history: Sequence[ResponseItem]) -> list[str]:
    return [item.text for item in history if isinstance(item, Message) and is_user_message(item)]


def _calls(history: Sequence[ResponseItem]) -> Iterator[tuple[FunctionCall, str]]:
    """Each call with its output, but for those that were cut: they are closed as `aborted`, and will be asked again."""
    open_calls: dict[str, FunctionCall] = {}
    for item in history:
        if isinstance(item, FunctionCall):
            open_calls[item.call_id] = item
        elif isinstance(item, FunctionCallOutput) and item.output != ABORTED:
            yield open_calls[item.call_id], str(item.output)


def _call(history: Sequence[ResponseItem], name: str, nth: int = 0, **arguments: Any) -> FunctionCall:
    return FunctionCall(call_id=f"call_{len(history)}_{nth}", name=name, arguments=json.dumps(arguments))


# --- a reviewer --------------------------------------------------------------------------------------------------------


def _review(history: Sequence[ResponseItem]) -> str | list[ResponseItem]:
    """Read the file, page by page, and measure it; then the row of the table."""
    number, file = job_of(_said(history)[0])
    pages = [output for call, output in _calls(history) if call.name == "read_file"]
    measured = [output for call, output in _calls(history) if call.name == "measure"]
    wanted = []
    more = _READ_ON.search(pages[-1]) if pages else None
    if not pages or more:
        wanted.append(_call(history, "read_file", path=file, first_line=int(more[1]) if more else 1))
    if not measured:
        wanted.append(_call(history, "measure", 1, path=file))
    return list(wanted) or _row(number, file, measured[0], sum(page.count("TODO") for page in pages))


def _row(number: int, file: str, measured: str, todos: int) -> str:
    if not measured.startswith("{"):
        return f"| {number} | {file} | | | {measured.splitlines()[0]} | | {todos} |"
    found = json.loads(measured)
    longest = f"{found['longest']} ({found['longest_lines']})" if found["longest"] else ""
    undocumented = f"{found['undocumented']} of {found['functions']}"
    return f"| {number} | {file} | {found['lines']} | {undocumented} | {longest} | {found['nesting']} | {todos} |"


# --- the lead ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Board:
    """What the lead has learnt so far: the files, who reviews which number, and how they fare."""

    files: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)

    def take(self, call: FunctionCall, output: str) -> None:
        """Learn from the output of a call; one that is no JSON says why nothing was done."""
        if call.name == "list_files":
            sizes = {name: int(size.replace(",", "")) for name, size in _LISTED.findall(output)}
            self.files = sorted(sizes, key=lambda name: (-sizes[name], name))
            return
        asked, told = json.loads(call.arguments), json.loads(output) if output.startswith("{") else {}
        if "agent_id" in told:
            self.numbers[told["agent_id"]] = job_of(asked["message"])[0]
            self.status[told["agent_id"]] = "running"
        if "submission_id" in told:
            self.status[asked["target"]] = "running"
        self.status.update(told.get("status", {}))

    def hear(self, message: str) -> None:
        """Learn of the agents that were cut off, or whose spawn was."""
        for line in message.splitlines()[1:]:
            agent, _, job = line.partition(": ")
            self.numbers[agent], self.status[agent] = job_of(job)[0], "unknown"

    def having(self, *words: str) -> list[str]:
        """The agents with one of these statuses."""
        return [agent for agent, status in self.status.items() if status in words]

    def rows(self) -> dict[int, str]:
        """The reports, by number."""
        done = [agent for agent, status in self.status.items() if "completed" in status]
        return {self.numbers[agent]: self.status[agent]["completed"] for agent in done}


def _board(history: Sequence[ResponseItem]) -> _Board:
    board, calls = _Board(), dict[str, FunctionCall]()
    for item in history:
        if isinstance(item, FunctionCall):
            calls[item.call_id] = item
        elif isinstance(item, FunctionCallOutput) and item.output != ABORTED:
            board.take(calls[item.call_id], str(item.output))
        elif isinstance(item, Message) and item.text.startswith(GO_ON):
            board.hear(item.text)
    return board


def _lead(history: Sequence[ResponseItem]) -> str | list[ResponseItem]:
    """List the files; spawn, wait, and spawn again; then the table."""
    said = _said(history)
    if said[-1] in (FIRST_QUESTION, OTHER_QUESTION):
        return _reply(history, said[-1])
    count, at_once = map(int, re.findall(r"\d+", said[0]))
    board = _board(history)
    if not board.files:
        return [_call(history, "list_files", pattern="**/*.py")]
    if unknown := board.having("unknown"):
        return [_call(history, "wait_agent", targets=unknown, mode="all", timeout_ms=1_000)]
    if cut := board.having("interrupted", "pending_init"):
        return [_call(history, "send_input", nth, target=agent, message=GO_ON) for nth, agent in enumerate(cut)]
    if running := board.having("running"):
        return [_call(history, "wait_agent", targets=running, mode="all", timeout_ms=60_000)]
    begun = set(board.numbers.values())
    todo = [number for number in range(1, count + 1) if number not in begun][:at_once]
    if not todo:
        return _summary(board.rows())
    jobs = [job_message(number, board.files[(number - 1) % len(board.files)]) for number in todo]
    return [_call(history, "spawn_agent", nth, message=job, agent_type="reviewer") for nth, job in enumerate(jobs)]


def _summary(rows: Mapping[int, str]) -> str:
    return (
        f"{SUMMARY_HEAD} {len(rows)} files\n\n{TABLE_HEAD}" + "\n".join(rows[number] for number in sorted(rows)) + "\n"
    )


def _reply(history: Sequence[ResponseItem], question: str) -> str:
    """Answer a question from the table that stands in the history."""
    summary = next(item.text for item in history if isinstance(item, Message) and item.text.startswith(SUMMARY_HEAD))
    rows = [line.strip("| ").split(" | ") for line in summary.splitlines() if _MEASURED.match(line)]
    if not rows:
        return "None could be measured."
    pick = max if question == FIRST_QUESTION else min
    row = pick(rows, key=lambda row: (int(row[3].split()[0]), int(row[5]), int(row[2])))
    return f"{row[1]}: {row[3]} functions have no docstring, and its deepest nesting is {row[5]}."
