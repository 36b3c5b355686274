"""A team of agents reviews real files. Its process is killed in the middle, and nothing is lost.

    python examples/review_team.py [FOLDER] [--agents N] [--home DIR] [--model embedded]
    python examples/review_team.py [FOLDER] --model NAME --base-url URL [--env-key NAME]

This program starts a worker (`_review_worker.py`: the team), kills it with SIGKILL when 60 % of the reports are there, starts
another one, which resumes the team from its rollouts, and counts in those what there is. It looks at files only: what the
runtime does, it does in the worker.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036  what is above and below runs on older ones, too
    sys.stderr.write(
        f"review_team: Python 3.11 or newer is needed, and this is {sys.version_info[0]}.{sys.version_info[1]}\n"
    )
    sys.exit(2)

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

WORKER = Path(__file__).with_name("_review_worker.py")
DEFAULT_AGENTS = 12
DEFAULT_ENV_KEY = "OPENAI_API_KEY"
KILL_AT = 0.6
SHOWN_ROWS = 20
FRAME_S = 0.05
ROW = re.compile(r"^ *\| *(\d+) *\|.*\|", re.MULTILINE)
"""A report; a model may say something around it."""
RULE = re.compile(r" *\|[ :|-]*-[ :|-]*$")
FIRST_LINE = "The embedded model answers: no network, no key. This example computes the answers from the files."


@dataclass
class Job:
    """What is to be reviewed, and by how many; `lead_path` is the lead's rollout, once there is a lead."""

    folder: Path
    home: Path
    count: int
    model: str
    lead_id: str = ""
    lead_path: str = ""
    base_url: str = ""
    env_key: str = ""

    def answers(self) -> str:
        """Who answers, as the first line says it."""
        if self.base_url:
            return f"{self.model} answers, at {self.base_url}."
        return FIRST_LINE if self.model == "embedded" else f"{self.model} answers."

    def hear(self, fact: dict[str, Any]) -> None:
        """Learn who leads."""
        if fact["kind"] == "lead":
            self.lead_id, self.lead_path = fact["thread_id"], fact["path"]


# --- first failures of a newcomer: one line each -----------------------------------------------------------------------


def fail(why: str) -> NoReturn:
    """Say why this cannot begin, in one line, and leave with status 2."""
    sys.stderr.write(f"review_team: {why}\n")
    sys.exit(2)


def package_folder() -> Path:
    """Where the source of codex_actors is; it and what it needs must be installed."""
    for name in ("pykka", "pydantic", "yaml", "codex_actors"):
        if find_spec(name) is None:
            fail(f"{name} is not installed for {sys.executable}; in a virtual environment: pip install -e .")
    spec = find_spec("codex_actors")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def python_files(folder: Path) -> Iterator[Path]:
    """The Python files of a folder, without links and hidden ones: those that the lead will find."""

    def refuse(error: OSError) -> None:
        if error.filename == str(folder):
            fail(f"the folder {folder} cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(place, name) for name in files if name.endswith(".py") and not name.startswith("."))
        yield from (path for path in paths if not path.is_symlink())


def key_variable(model: str, base_url: str, env_key: str | None) -> str:
    """The name of the variable with the server's key; empty where none is sent."""
    if not base_url:
        if env_key is not None:
            fail("--env-key: the key goes to a server; say which with --base-url URL")
        return ""
    if model == "embedded":
        fail("--base-url: which model of that server? --model NAME")
    if find_spec("aiohttp") is None:
        fail(f"aiohttp is not installed for {sys.executable}; in a virtual environment: pip install -e '.[http]'")
    if os.environ.get(env_key or DEFAULT_ENV_KEY, "").strip():
        return env_key or DEFAULT_ENV_KEY
    if env_key is not None:
        fail(f"--env-key: the environment variable {env_key} is not set or blank; put the key into it")
    return ""


def read_arguments() -> Job:
    """The job that the command line asks for."""
    parser = argparse.ArgumentParser(prog="review_team", description="A team of agents reviews Python files.")
    parser.add_argument("folder", nargs="?", type=Path, help="what to review (the source of codex_actors)")
    parser.add_argument("--agents", type=int, help=f"how many reviewers ({DEFAULT_AGENTS}); files are repeated")
    parser.add_argument("--home", type=Path, help="where rollouts are kept (a new temporary folder)")
    parser.add_argument(
        "--model",
        default="embedded",
        metavar="NAME",
        help="who answers: embedded, module:name of a ModelProvider, or with --base-url a model of that server",
    )
    parser.add_argument("--base-url", metavar="URL", default="", help="a server of the Responses API")
    parser.add_argument("--env-key", metavar="NAME", help=f"the variable that holds its key ({DEFAULT_ENV_KEY})")
    asked = parser.parse_args()
    package = package_folder()
    env_key = key_variable(asked.model, asked.base_url, asked.env_key)
    folder = (asked.folder or package).resolve()
    found = len(list(islice(python_files(folder), DEFAULT_AGENTS)))
    if not found:
        fail(f"there are no Python files in {folder}")
    if asked.agents is not None and asked.agents < 1:
        fail(f"--agents {asked.agents}: at least one is needed")
    try:
        home = asked.home or Path(tempfile.mkdtemp(prefix="review_team-"))
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"the home {asked.home} cannot be made: {error.strerror}")
    agents = asked.agents or found
    return Job(folder, home.resolve(), agents, asked.model, base_url=asked.base_url, env_key=env_key)


# --- what is on the screen while the team works ------------------------------------------------------------------------


@dataclass
class Screen:
    """On a terminal a live line for each agent; into a pipe a line for each report."""

    is_terminal: bool = field(default_factory=sys.stdout.isatty)
    agents: dict[int, dict[str, Any]] = field(default_factory=dict)
    drawn: int = 0
    drawn_s: float = 0.0

    def take(self, fact: dict[str, Any]) -> None:
        """An agent does something."""
        now_s = time.monotonic()
        agent = self.agents.setdefault(fact["number"], {"began_s": now_s, "status": ""})
        is_news = agent["status"] != fact["status"]
        agent.update(fact, took_s=now_s - agent["began_s"] if is_news or fact["does"] else agent["took_s"])
        if self.is_terminal and now_s > self.drawn_s + FRAME_S:
            self.draw()
        elif not self.is_terminal and is_news and fact["status"] != "running":
            print(self.line(agent), flush=True)

    def line(self, agent: dict[str, Any]) -> str:
        file = agent["file"] if len(agent["file"]) <= 32 else "…" + agent["file"][-31:]
        return "{number:5}  {file:32}  {status:11}  {does:9}  {took_s:5.1f} s  {tokens:7,} tokens".format(
            **{**agent, "file": file}
        )

    def draw(self) -> None:
        """Draw over what was drawn before; of more agents than fit, those at work come first."""
        room = max(1, shutil.get_terminal_size().lines - 3)
        agents = sorted(self.agents.values(), key=lambda agent: (agent["status"] != "running", -agent["number"]))
        lines = [self.line(agent) for agent in sorted(agents[:room], key=lambda agent: agent["number"])]
        up = f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self.drawn, self.drawn_s = len(lines), time.monotonic()

    def leave(self) -> None:
        """What is drawn stays; the next line stands below it."""
        if self.is_terminal and self.agents:
            self.draw()
        self.drawn = 0

    def reports(self) -> int:
        return sum(agent["status"] == "completed" for agent in self.agents.values())


# --- the worker, from outside ------------------------------------------------------------------------------------------


def start_worker(job: Job) -> subprocess.Popen[str]:
    """A process that does the job, or what is left of it."""
    command = [sys.executable, str(WORKER), str(job.home), str(job.folder), str(job.count), job.model, job.lead_path]
    command += [job.base_url, job.env_key]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def facts_of(worker: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What the worker says. SIGKILL may cut its last line."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.endswith("\n"):
            yield json.loads(line)


def run_until_killed(job: Job, screen: Screen) -> None:
    """The first worker. It gets no chance to tidy up."""
    kill_at = math.ceil(job.count * KILL_AT)
    with start_worker(job) as worker:
        for fact in facts_of(worker):
            job.hear(fact)
            if fact["kind"] == "agent":
                screen.take(fact)
            if screen.reports() >= kill_at:
                worker.kill()
    screen.leave()
    if screen.reports() < kill_at:
        sys.exit(f"review_team: the worker failed with status {worker.returncode}")


def run_to_the_end(job: Job, screen: Screen) -> dict[str, Any]:
    """The second worker: the last fact of each kind, by kind, and when the team was resumed."""
    facts: dict[str, Any] = {}
    with start_worker(job) as worker:
        for fact in facts_of(worker):
            job.hear(fact)
            facts[fact["kind"]] = {**fact, "at_s": time.monotonic()}
            if fact["kind"] == "agent":
                screen.take(fact)
            elif fact["kind"] == "summary":
                screen.leave()
    if worker.returncode != 0:
        sys.exit(f"review_team: the worker failed with status {worker.returncode}")
    return facts


# --- what the rollouts say ---------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """What is kept of a team: how often each number was reported on, its threads, and their turns."""

    reports: Counter[int]
    threads: int = 0
    turns: int = 0


def kept(job: Job) -> Kept:
    """Count in the rollouts of the lead and its reviewers."""
    found = Kept(Counter())
    for path in sorted(job.home.glob("sessions/*/*/*/rollout-*.jsonl")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be torn
        if not lines:
            continue
        meta = json.loads(lines[0])["payload"]
        if job.lead_id not in (meta["id"], meta.get("parent_thread_id")):
            continue
        found.threads += 1
        for line in lines:
            if '"turn_context"' in line or '"agent_message"' in line:
                record = json.loads(line)
                payload = record["payload"]
                found.turns += record["type"] == "turn_context"
                if meta.get("parent_thread_id") == job.lead_id and payload.get("type") == "agent_message":
                    found.reports.update(map(int, ROW.findall(payload["message"])))
    return found


# --- the whole ---------------------------------------------------------------------------------------------------------


def show_summary(job: Job, text: str) -> None:
    """Write the lead's Markdown to a file, and print its table."""
    path = job.home / "review.md"
    path.write_text(text, encoding="utf-8")
    lines = text.splitlines()
    head = next((number for number, line in enumerate(lines, 1) if RULE.match(line)), 0)
    print("", *lines[: head + SHOWN_ROWS], sep="\n")
    if len(lines) > head + SHOWN_ROWS:
        print(f"… and {len(lines) - head - SHOWN_ROWS:,} more in {path}")


def show_end(job: Job, facts: dict[str, Any], found: Kept, took_s: float) -> None:
    """The questions, and the receipt."""
    asked, forked, receipt = facts["asked"], facts["forked"], facts["receipt"]
    print(f"\nAsked: {asked['question']}\n  {asked['answer']}")
    print(f"Forked in front of that, and asked: {forked['question']}\n  {forked['answer']}")
    print(f"  SHA-256 of the parent's rollout before: {forked['before']}")
    print(f"  SHA-256 of the parent's rollout after:  {forked['after']}")
    print(
        f"\n{found.threads:,} agents, {found.turns:,} turns, and a fork, in {took_s:.1f} s; the second worker had "
        f"{receipt['peak_bytes'] / 1e6:.0f} MB at its peak, and {receipt['os_threads']} OS threads"
    )
    print(f"summary: {job.home / 'review.md'}\nlead:    {job.lead_path}")
    print(f"with Codex installed: CODEX_HOME={job.home} codex resume {job.lead_id}")


def main() -> None:
    """Review, kill, resume, count, fork."""
    began_s = time.monotonic()
    job = read_arguments()
    print(job.answers())
    print(f"{job.count:,} reviewers for the Python files of {job.folder}", flush=True)
    screen = Screen()
    run_until_killed(job, screen)
    killed_s = time.monotonic()
    left = kept(job)
    before = len(left.reports)
    print(
        f"SIGKILL: {before:,} reports are kept; reviewers cut off: {left.threads - 1 - before}. Another process goes on."
    )
    sys.stdout.flush()
    facts = run_to_the_end(job, screen)
    found = kept(job)
    show_summary(job, facts["summary"]["text"])
    print(
        f"\nkilled at {before:,} of {job.count:,} reports; resumed in {facts['resumed']['at_s'] - killed_s:.1f} s; "
        f"{found.reports.total():,} reports, {job.count - len(found.reports):,} lost, "
        f"{found.reports.total() - len(found.reports):,} twice"
    )
    show_end(job, facts, found, time.monotonic() - began_s)


if __name__ == "__main__":
    main()
