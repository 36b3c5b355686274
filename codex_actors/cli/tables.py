"""Lists on standard output: columns on a terminal, whole lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table

from codex_actors.cli.notes import harmless


def console() -> Console:
    """Standard output of a terminal; `NO_COLOR` is honoured by Rich."""
    return Console(highlight=False, markup=False, emoji=False)


def show_table(rows: Sequence[Sequence[str]], *, kept_whole: int = 2) -> None:
    """Columns on a terminal, cut to its width but for the first `kept_whole`; elsewhere whole lines, with tabs."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for number in range(len(rows[0])):
        is_whole = number < kept_whole
        width = max(len(harmless(row[number])) for row in rows) if is_whole else None
        table.add_column(no_wrap=True, overflow="ellipsis", min_width=width, ratio=None if is_whole else 1)
    for row in rows:
        table.add_row(*map(harmless, row))
    console().print(table)
