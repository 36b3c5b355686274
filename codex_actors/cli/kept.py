"""The commands that look at kept threads, and those that put them away. None asks a model; the former write nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from codex_actors import KeptThread, ThreadQuery
from codex_actors.cli.commands import app, leave_with
from codex_actors.cli.notes import harmless, one_line
from codex_actors.cli.options import HomeOption, LinesOption, default_home
from codex_actors.cli.show import show_thread
from codex_actors.cli.tables import console, show_table
from codex_actors.cli.where import kept_thread
from codex_actors.errors import ThreadNotFound
from codex_actors.rollout.archive import archive_thread, unarchive_thread
from codex_actors.rollout.listing import all_threads, find_thread
from codex_actors.rollout.names import append_name
from codex_actors.runtime.clock import Clock

__all__ = ["app"]

WIDE = 100
"""From how many columns on a terminal has room for the status in a list."""

WORDS = 60
"""How many characters of what a thread is about stand in a tree."""

Which = Annotated[str, typer.Argument(metavar="THREAD", help="An id, the begin of one, or a name.")]
WhichOrPath = Annotated[
    str, typer.Argument(metavar="THREAD|PATH", help="An id, the begin of one, a name, or a rollout file.")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="How many.")]


@app.command()
def ls(
    limit: LimitOption = 20,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only those with this in their first words or name.")
    ] = None,
    cwd: Annotated[Path | None, typer.Option("--cwd", metavar="DIR", help="Only those of this folder.")] = None,
    sort_by: Annotated[str, typer.Option("--sort", metavar="BY", help="By `updated` or `created`.")] = "updated",
    archived: Annotated[bool, typer.Option("--archived", help="Those that are archived.")] = False,
    agents: Annotated[bool, typer.Option("--agents", help="Also those that threads have spawned.")] = False,
    as_json: LinesOption = False,
    home: HomeOption = None,
) -> None:
    """List the threads of the home, newest first.

    Of each: its id, its last change, its folder, and its name or first words.

    \b
    Example:
      codex-actors ls --limit 5
    """

    def work() -> int:
        order: Any = sort_by
        folder = None if cwd is None else str(cwd.expanduser().absolute())
        query = ThreadQuery(sort_by=order, search=search, cwd=folder, archived=archived, with_agents=agents)
        return _list(home_dir(home), islice(all_threads(home_dir(home), query), limit), as_json)

    leave_with(work)


@app.command()
def tree(
    thread: Annotated[
        str | None, typer.Argument(metavar="[THREAD]", help="An id, the begin of one, or a name.", show_default=False)
    ] = None,
    limit: LimitOption = 20,
    as_json: LinesOption = False,
    home: HomeOption = None,
) -> None:
    """Show which threads have spawned which.

    Without a thread: the newest ones that have spawned any.

    \b
    Example:
      codex-actors tree
    """
    leave_with(lambda: _tree(home_dir(home), thread, limit, as_json))


@app.command()
def show(thread: WhichOrPath, as_json: LinesOption = False, home: HomeOption = None) -> None:
    """Show one thread as it can be read: turns, calls, tokens, durations and damage.

    \b
    Example:
      codex-actors show 019ac5a1
    """

    def work() -> int:
        kept = kept_thread(home_dir(home), thread)
        return show_thread(kept, as_json=as_json)

    leave_with(work)


@app.command()
def archive(thread: Which, home: HomeOption = None) -> None:
    """Take a thread off the list; its file goes to `archived_sessions`.

    \b
    Example:
      codex-actors archive 019ac5a1
    """
    leave_with(lambda: _said(archive_thread(home_dir(home), find_thread(home_dir(home), thread).id)))


@app.command()
def unarchive(thread: Which, home: HomeOption = None) -> None:
    """Put an archived thread on the list again.

    \b
    Example:
      codex-actors unarchive 019ac5a1
    """
    leave_with(lambda: _said(unarchive_thread(home_dir(home), find_thread(home_dir(home), thread).id)))


@app.command()
def name(
    thread: Which,
    new_name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called from now on.")],
    home: HomeOption = None,
) -> None:
    """Name a thread; it is then found by that, here and in Codex.

    \b
    Example:
      codex-actors name 019ac5a1 "the plan"
    """

    def work() -> int:
        append_name(home_dir(home), find_thread(home_dir(home), thread).id, new_name, Clock().timestamp())
        return 0

    leave_with(work)


def home_dir(home: Path | None) -> Path:
    """The home that is meant, absolute."""
    return (home or default_home()).expanduser().absolute()


def _said(path: Path) -> int:
    typer.echo(str(path))
    return 0


def _list(home: Path, threads: Iterable[KeptThread], as_json: bool) -> int:
    found = list(threads)
    if as_json:
        for thread in found:
            typer.echo(json.dumps(thread.to_wire()))
    elif found:
        is_wide = sys.stdout.isatty() and shutil.get_terminal_size().columns >= WIDE
        show_table([_cells(thread, is_wide) for thread in found], kept_whole=3 if is_wide else 2)
    else:
        sys.stderr.write(f"codex-actors: no threads are kept in {harmless(str(home))}\n")
    return 0


def _cells(thread: KeptThread, is_wide: bool) -> tuple[str, ...]:
    changed = f"{thread.updated.astimezone():%Y-%m-%d %H:%M}"
    status = (thread.status,) if is_wide else ()
    return thread.id, changed, *status, thread.cwd, thread.name or thread.preview


def tokens_of(thread: KeptThread) -> str:
    """What it has used, as text; empty where that is not known."""
    return "" if thread.tokens is None else f"{thread.tokens:,}"


# --- the tree ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    thread: KeptThread
    agents: list[_Node] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        return self.thread.to_wire() | {"agents": [agent.to_wire() for agent in self.agents]}

    def walk(self, depth: int = 0) -> Iterator[tuple[int, KeptThread]]:
        yield depth, self.thread
        for agent in self.agents:
            yield from agent.walk(depth + 1)


def _tree(home: Path, which: str | None, limit: int, as_json: bool) -> int:
    nodes = _nodes(list(all_threads(home)))
    if which is None:
        roots = [node for node in nodes.values() if node.agents and node.thread.parent_id not in nodes][:limit]
    else:
        found = nodes.get(find_thread(home, which).id)
        if found is None:  # it was removed meanwhile
            raise ThreadNotFound(which)
        roots = [found]
    for root in roots:
        if as_json:
            typer.echo(json.dumps(root.to_wire()))
        elif sys.stdout.isatty():
            console().print(_drawn(root))
        else:
            for depth, thread in root.walk():
                typer.echo("\t".join(["  " * depth + thread.id, thread.status, tokens_of(thread), _about(thread)]))
    if not roots:
        sys.stderr.write(f"codex-actors: no thread of {harmless(str(home))} has spawned another\n")
    return 0


def _nodes(threads: list[KeptThread]) -> dict[str, _Node]:
    """Each thread with what it has spawned, oldest first; a thread that is its own ancestor is nobody's."""
    nodes: dict[str, _Node] = {thread.id: _Node(thread) for thread in threads}
    for node in reversed(nodes.values()):
        above, seen = node.thread.parent_id, {node.thread.id}
        while above in nodes and above not in seen:
            seen.add(above)
            above = nodes[above].thread.parent_id
        parent = nodes.get(node.thread.parent_id or "")
        if parent is not None and above not in seen:
            parent.agents.append(node)
    return nodes


def _drawn(node: _Node) -> Tree:
    drawn = Tree(_label(node.thread))
    waiting = [(agent, drawn) for agent in reversed(node.agents)]
    while waiting:
        agent, branch = waiting.pop()
        below = branch.add(_label(agent.thread))
        waiting += [(each, below) for each in reversed(agent.agents)]
    return drawn


STYLES = {"completed": "green", "errored": "red", "interrupted": "yellow"}
"""How a status looks on a terminal."""


def _label(thread: KeptThread) -> Text:
    tokens = f"{tokens_of(thread)} tokens" if thread.tokens is not None else ""
    return Text("  ").join(
        [
            Text(thread.id, style="dim"),
            Text(thread.status, style=STYLES.get(thread.status, "")),
            *([Text(tokens)] if tokens else []),
            Text(one_line(_about(thread), WORDS)),
        ]
    )


def _about(thread: KeptThread) -> str:
    return thread.name or thread.agent_nickname or thread.agent_path or thread.preview
