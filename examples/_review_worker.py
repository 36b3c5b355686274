"""The team of `review_team.py`: a lead that spawns a reviewer for each file, in a process that may be killed.

Each line of its standard output is a JSON object that says what happens. Given the lead's rollout, it resumes the team.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import resource
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _measure import measure as measure_source
from _scripted_team import (
    FIRST_QUESTION,
    GO_ON,
    OTHER_QUESTION,
    SUMMARY_HEAD,
    TABLE_HEAD,
    embedded_model,
    go_on,
    job_of,
    review_request,
)

from codex_actors import CodexThread, Config, ManagerConfig, NewThread, ThreadManager, tool
from codex_actors.model.provider import ModelProvider
from codex_actors.model.provider_info import ModelProviderInfo
from codex_actors.protocol.events import (
    AgentMessage,
    EventMsg,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    TaskComplete,
    UserMessage,
)
from codex_actors.protocol.history import ResponseItemLine
from codex_actors.protocol.items import FunctionCallOutput
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.truncation import user_message_positions
from codex_actors.tools.agents import agent_tools
from codex_actors.tools.files import file_tools
from codex_actors.tools.tool import ToolError

LEAD = f"""You lead a team that reviews Python files. You read no file yourself. Asked for a review, work like this:

1. Call list_files with the pattern "**/*.py". Number the files from 1, the largest first, as many as you are asked for; when
   there are fewer files, begin again with the largest under the next number.
2. Call spawn_agent once for each number, with agent_type "reviewer" and exactly this message:
   Review file NUMBER: PATH
   Make several calls in one answer, but never have more agents at work than you are told.
3. Call wait_agent with the ids of all that work, mode "all" and timeout_ms 300000; when that has timed out, wait once more.
   Under "completed" stands the row that a reviewer reports. Then go on with the numbers that are left.
4. When each number has its row, answer with nothing but the line "{SUMMARY_HEAD} COUNT files", an empty line, and this table
   with the rows in the order of their numbers, each copied as it is:

{TABLE_HEAD}
When you are told that you were cut off, the agents that are named to you exist, with their jobs: spawn no other for those
numbers. Wait for them (timeout_ms 1000); to each that is "interrupted" or "pending_init", send_input "{GO_ON}"; then go on
with step 3. What you had asked for and what was aborted, ask for again.

A question after the review is answered from the table, in one sentence that names the file first."""

REVIEWER = f"""You review one Python file: you are told its number and its path. Call read_file, as often as it takes to see the
whole file, and measure. Then answer with nothing but one row of a Markdown table, in one line:

| NUMBER | PATH | lines | UNDOCUMENTED of FUNCTIONS | LONGEST (ITS LINES) | deepest nesting | TODOs |

For example: | 7 | folder/name.py | 120 | 3 of 11 | parse (42) | 4 | 0 |
The lines, the functions, those without docstring, the longest one and the nesting are those of measure; count the TODOs while
you read. When a file cannot be measured, write why in place of the longest function and leave the other cells empty. When you
are told "{GO_ON}", finish what you had begun."""


def say(kind: str, **facts: Any) -> None:
    """Tell the program that started this process."""
    print(json.dumps({"kind": kind, **facts}), flush=True)


def at_once(count: int) -> int:
    """Reviewers at work at once: the lead's `max_agents`."""
    return min(64, max(7, count // 10))


def configs(folder: Path, count: int, model: str | None) -> tuple[Config, Config]:
    """The lead's, and that of its reviewers; `model` is None where the provider has but one."""
    list_files, read_file, _ = file_tools(folder)

    @tool(read_only=True)
    def measure(path: str) -> dict[str, Any]:
        """Measure a Python file: its functions, those without docstring, the longest one, and its deepest nesting."""
        place = (folder / path).resolve()
        if not place.is_relative_to(folder):
            raise ToolError(f"{path!r} is outside of the folder")
        try:
            return asdict(measure_source(place.read_text(encoding="utf-8", errors="replace")))
        except (OSError, SyntaxError, ValueError) as error:
            raise ToolError(f"cannot be measured: {error}") from None

    reviewer = Config(model=model, base_instructions=REVIEWER, tools=(read_file, measure), cwd=folder)
    tools = (list_files, *agent_tools({"reviewer": reviewer}))
    return Config(model=model, base_instructions=LEAD, tools=tools, cwd=folder, max_agents=at_once(count)), reviewer


def messages_of(new: NewThread, kind: type[UserMessage] | type[AgentMessage]) -> list[str]:
    """What was said in a resumed thread, by its user or by its model."""
    events: tuple[EventMsg, ...] = new.session_configured.initial_messages or ()
    return [event.message for event in events if isinstance(event, kind)]


class Team:
    """A lead and its reviewers; what happens to them is said."""

    def __init__(self, manager: ThreadManager, home: Path, lead: Config, reviewer: Config) -> None:
        self.manager, self.home = manager, home
        self.lead_config, self.reviewer_config = lead, reviewer
        self.following: set[asyncio.Task[None]] = set()
        self.os_threads = 0

    async def start(self, count: int) -> tuple[NewThread, str]:
        """A new lead, and what it is to be told."""
        return self.led_by(await self.manager.start_thread(self.lead_config)), review_request(count, at_once(count))

    async def resume(self, count: int, lead_path: Path) -> tuple[NewThread, str]:
        """Lead and reviewers as their rollouts have them, and what the lead is to be told. None runs before it is told to."""
        resume = self.manager.resume_thread_from_rollout
        lead = await resume(self.lead_config, lead_path)
        paths = await asyncio.to_thread(rollouts_of_children, self.home, lead.thread_id)
        known = await asyncio.to_thread(outputs_in, lead_path)
        unheard: dict[str, tuple[int, str]] = {}
        for new in await asyncio.gather(*(resume(self.reviewer_config, path) for path in paths)):
            job = job_of(messages_of(new, UserMessage)[0])
            if new.thread.agent_status().word != "completed" or new.thread_id not in known:
                unheard[new.thread_id] = job
            self.follow(self.reviewer(new.thread, *job))
        say("resumed", agents=len(paths))
        words = go_on(unheard) if messages_of(lead, UserMessage) else review_request(count, at_once(count))
        return self.led_by(lead), words

    def led_by(self, new: NewThread) -> NewThread:
        say("lead", thread_id=new.thread_id, path=new.session_configured.rollout_path)
        self.follow(self.spawns(new.thread))
        return new

    def follow(self, following: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(following)
        self.following.add(task)
        task.add_done_callback(self.following.discard)

    async def spawns(self, lead: CodexThread) -> None:
        """Follow each reviewer from its spawn on."""
        with lead.events() as events:
            async for event in events:
                match event.msg:
                    case ItemCompleted(item=FunctionCallItem(name="spawn_agent", success=True) as call):
                        child = await self.manager.get_thread(json.loads(call.output or "")["agent_id"])
                        self.follow(self.reviewer(child, *job_of(json.loads(call.arguments)["message"])))

    async def reviewer(self, thread: CodexThread, number: int, file: str) -> None:
        """Say what one reviewer does, until it has reported."""

        def tell(status: str, does: str = "") -> None:
            self.os_threads = max(self.os_threads, threading.active_count())
            tokens = thread.total_token_usage().total_tokens
            say("agent", number=number, file=file, status=status, does=does, tokens=tokens)

        with thread.events() as events:
            tell(str(thread.agent_status()))
            if thread.agent_status().word == "completed":
                return
            async for event in events:
                match event.msg:
                    case ItemStarted(item=FunctionCallItem(name=name)):
                        tell("running", name)
                    case TaskComplete(error=None):
                        tell("completed")
                        return
                    case TaskComplete(error=error):
                        tell("errored", str(error))


def rollouts_of_children(home: Path, parent_id: str) -> list[Path]:
    """The rollouts of the agents that a thread has spawned: their first lines say so."""
    found = []
    for path in sorted(home.glob("sessions/*/*/*/rollout-*.jsonl")):
        with path.open(encoding="utf-8") as file, suppress(ValueError):  # a first line that was cut is nobody's
            if json.loads(file.readline())["payload"].get("parent_thread_id") == parent_id:
                found.append(path)
    return found


def outputs_in(path: Path) -> str:
    """What tools have told the model of a thread."""
    items = get_rollout_history(path).get_rollout_items()
    payloads = [item.payload for item in items if isinstance(item, ResponseItemLine)]
    return "\n".join(str(payload.output) for payload in payloads if isinstance(payload, FunctionCallOutput))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def ask_further(team: Team, lead: CodexThread) -> None:
    """Ask the lead one more thing; then fork it in front of that, and ask the fork something else."""
    path = lead.rollout_path
    assert path is not None
    say("asked", question=FIRST_QUESTION, answer=(await lead.run(FIRST_QUESTION)).raise_for_error().text)
    before = await asyncio.to_thread(digest, path)
    history = await asyncio.to_thread(get_rollout_history, path)
    last = len(user_message_positions(history.get_rollout_items())) - 1
    fork = (await team.manager.fork_thread(last, team.lead_config, path)).thread
    answer = (await fork.run(OTHER_QUESTION)).raise_for_error().text
    after = await asyncio.to_thread(digest, path)
    say("forked", question=OTHER_QUESTION, answer=answer, before=before, after=after, path=str(fork.rollout_path))


async def work(team: Team, count: int, lead_path: Path | None) -> None:
    """The whole job, or what is left of it."""
    async with team.manager:
        lead, words = await (team.start(count) if lead_path is None else team.resume(count, lead_path))
        summaries = [text for text in messages_of(lead, AgentMessage) if text.startswith(SUMMARY_HEAD)]
        if not summaries:
            summaries.append((await lead.thread.run(words)).raise_for_error().text or "")
        say("summary", text=summaries[0])
        await ask_further(team, lead.thread)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        say("receipt", peak_bytes=peak, os_threads=team.os_threads)
        for task in team.following:
            task.cancel()


def model_named(name: str, base_url: str, env_key: str) -> ModelProvider:
    """The embedded model, a model of the server at `base_url`, or what `module:name` is or makes."""
    if base_url:
        # Only here: it loads aiohttp, which the other models do without.
        from codex_actors.model.responses import ResponsesModel

        return ResponsesModel(ModelProviderInfo(name="server", base_url=base_url, env_key=env_key or None))
    if name == "embedded":
        return embedded_model()
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        sys.exit(f"review_team: --model {name}: {error}")
    model: ModelProvider = found if isinstance(found, ModelProvider) and not isinstance(found, type) else found()
    return model


def main(home: str, folder: str, count: str, model: str, lead_path: str, base_url: str, env_key: str) -> None:
    """Do the job, or resume it; a lead without a rollout was killed before it was told anything."""
    # What happens is written to a pipe from the loop: its reader may let it wait.
    provider = model_named(model, base_url, env_key)
    manager = ThreadManager(home, model=provider, config=ManagerConfig(block_warning_s=1.0))
    team = Team(manager, Path(home), *configs(Path(folder), int(count), model if base_url else None))
    asyncio.run(work(team, int(count), Path(lead_path) if Path(lead_path).is_file() else None))


if __name__ == "__main__":
    main(*sys.argv[1:])
