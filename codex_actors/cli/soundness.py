"""The commands on damage: `verify` writes nothing, `salvage` takes damage out of a thread that nobody writes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from codex_actors.cli.codex_check import check
from codex_actors.cli.commands import leave_with
from codex_actors.cli.kept import app, home_dir
from codex_actors.cli.notes import harmless
from codex_actors.cli.options import HomeOption, LinesOption, Refused
from codex_actors.cli.tables import console
from codex_actors.cli.where import path_of
from codex_actors.errors import CodexError
from codex_actors.rollout.damage import Report
from codex_actors.rollout.damage import verify as verify_bytes
from codex_actors.rollout.listing import scan
from codex_actors.rollout.salvage import salvage_claimed
from codex_actors.rollout.verify import code_of, json_of, text_of

__all__ = ["app"]

UNREADABLE = 2
"""The exit status where a thread is not found, or its file not readable."""

_WHAT = "An id, the begin of one, a name, or a rollout file"


@app.command()
def verify(
    threads: Annotated[
        list[str] | None,
        typer.Argument(metavar="[THREAD|PATH]...", help=f"{_WHAT} [all of the home].", show_default=False),
    ] = None,
    codex: Annotated[
        Path | None,
        typer.Option("--codex", metavar="BIN", help="Let this Codex resume a copy of each, and compare the histories."),
    ] = None,
    as_json: LinesOption = False,
    home: HomeOption = None,
) -> None:
    """Say whether rollouts are sound, and whether Codex can resume them.

    Nothing is written. The exit status is 0 if all is well, 1 if something is wrong, 2 if something cannot be read or run.

    \b
    Example:
      codex-actors verify 019ac5a1 --codex "$(command -v codex)"
    """

    def look(path: Path) -> Report:
        report = verify_bytes(path)
        return report if codex is None else _proven(report, codex)

    def work() -> int:
        where = home_dir(home)
        found: Sequence[str | Path] = threads or sorted(file.path for file in scan(where, archived=None))
        if not found:
            sys.stderr.write(f"codex-actors: no threads are kept in {harmless(str(where))}\n")
        return _show(where, found, look, as_json)

    leave_with(work)


@app.command()
def salvage(
    thread: Annotated[str, typer.Argument(metavar="THREAD|PATH", help=f"{_WHAT}.")],
    apply: Annotated[bool, typer.Option("--apply", help="Write; without it only say what would be taken out.")] = False,
    as_json: LinesOption = False,
    home: HomeOption = None,
) -> None:
    """Take the damage out of a rollout; it is set aside in FILE.torn.

    A thread that somebody writes is refused.

    \b
    Example:
      codex-actors salvage 019ac5a1 --apply
    """
    leave_with(lambda: _show(home_dir(home), [thread], partial(salvage_claimed, apply=apply), as_json))


def _show(home: Path, threads: Iterable[str | Path], look: Callable[[Path], Report], as_json: bool) -> int:
    status = 0
    for thread in threads:
        try:
            report = look(thread if isinstance(thread, Path) else path_of(home, thread))
        except (CodexError, Refused) as error:
            sys.stdout.flush()
            sys.stderr.write(f"codex-actors: {harmless(' '.join(str(error).split()))}\n")
            status = UNREADABLE
            continue
        status = max(status, code_of(report))
        if as_json:
            typer.echo(json.dumps(json_of(report)))
        elif sys.stdout.isatty():
            style = "bold yellow" if code_of(report) else ""
            console().print(Text("\n".join(map(harmless, text_of(report).splitlines())), style=style), soft_wrap=True)
        else:
            typer.echo(text_of(report))
    return status


def _proven(report: Report, codex: Path) -> Report:
    """The report, and what the real program does with the file."""
    finding = asyncio.run(check(codex, report.path))
    who = f"Codex {finding.version}"
    if finding.problems:
        return replace(report, problems=(*report.problems, *(f"{who}: {problem}" for problem in finding.problems)))
    return replace(report, notes=(*report.notes, f"{who} goes on with it, and has the same {finding.items} items"))
