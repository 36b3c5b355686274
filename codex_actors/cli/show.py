"""One thread on standard output, as it can be read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import typer
from rich.text import Text

from codex_actors import KeptThread
from codex_actors.cli.notes import harmless, one_line
from codex_actors.cli.tables import console
from codex_actors.cli.transcript import Step, Transcript, Turn, read_transcript

WIDTH = 160
"""How much of a call is shown."""

SHOWN_DAMAGE = 20
"""How many damaged lines are listed; `--json` has all."""

Line = tuple[str, str]
"""A text, and how it looks on a terminal."""


def show_thread(thread: KeptThread, *, as_json: bool) -> int:
    """Show the thread; the exit status. A file that is damaged is shown all the same, and the damage with it.

    Raises:
        RolloutError: the file cannot be read.
    """
    transcript = read_transcript(thread.path)
    if as_json:
        typer.echo(json.dumps(thread.to_wire() | transcript.to_wire()))
        return 0
    lines = (*_head(thread, transcript), *_turns(transcript), *_damage(transcript))
    if sys.stdout.isatty():
        out = console()
        for text, style in lines:
            out.print(Text(harmless(text), style=style), soft_wrap=True)
    else:
        for text, _ in lines:
            typer.echo(text)
    return 0


def _head(thread: KeptThread, transcript: Transcript) -> Iterator[Line]:
    facts = {
        "thread": thread.id,
        "name": thread.name,
        "folder": thread.cwd,
        "model": thread.model,
        "source": thread.source,
        "agent": thread.agent_path or thread.agent_nickname,
        "spawned by": thread.parent_id,
        "forked from": thread.forked_from_id,
        "begins in": transcript.inherited,
        "created": f"{thread.created.astimezone():%Y-%m-%d %H:%M:%S}",
        "updated": f"{thread.updated.astimezone():%Y-%m-%d %H:%M:%S}",
        "status": thread.status,
        "tokens": None if thread.tokens is None else f"{thread.tokens:,}",
        "file": f"{thread.path} ({thread.size_bytes:,} bytes, {transcript.lines:,} lines)",
    }
    for name, fact in facts.items():
        if fact:
            yield f"{name + ':':<13}{fact}", "dim"


def _turns(transcript: Transcript) -> Iterator[Line]:
    for number, turn in enumerate(transcript.turns, start=1):
        yield "", ""
        yield _heading(number, turn), "bold"
        for step in turn.steps:
            yield from _step(step)
        if turn.error is not None:
            yield f"error: {turn.error}", "bold red"


def _heading(number: int, turn: Turn) -> str:
    tokens = [] if turn.tokens is None else [f"{turn.tokens:,} tokens"]
    rolled_back = ["rolled back"] if turn.is_rolled_back else []
    return " · ".join([f"turn {number}", turn.began, seconds(turn.duration_ms), *tokens, turn.status, *rolled_back])


def _step(step: Step) -> Iterator[Line]:
    text = step.text or ""
    match step.kind:
        case "user":
            yield "\n".join(f"> {line}" for line in text.splitlines()) or ">", "cyan"
        case "assistant":
            yield text, ""
        case "reasoning":
            yield "\n".join(f"  {line}" for line in text.splitlines()), "dim italic"
        case "note":
            yield f"— {one_line(text, WIDTH)}", "yellow"
        case "call":
            yield _call(step), "dim"


def _call(step: Step) -> str:
    asked = one_line(f"$ {step.name} {step.arguments or ''}", WIDTH // 2)
    if step.duration_ms is None:
        return asked if step.name == "web_search_call" else f"{asked} → no output"
    return f"{asked} → {one_line(step.text or '', WIDTH // 2)} ({seconds(step.duration_ms)})"


def _damage(transcript: Transcript) -> Iterator[Line]:
    damage = transcript.damage
    if not damage:
        return
    yield "", ""
    yield f"{len(damage)} damaged line(s), which are left out:", "bold yellow"
    for each in damage[:SHOWN_DAMAGE]:
        yield f"  line {each.line}, bytes {each.start} to {each.end}: {each.what}", "yellow"
    if len(damage) > SHOWN_DAMAGE:
        yield f"  and {len(damage) - SHOWN_DAMAGE} more", "yellow"


def seconds(duration_ms: int) -> str:
    """A duration as text."""
    return f"{duration_ms / 1000:.1f} s" if duration_ms >= 100 else f"{duration_ms} ms"
