"""What a turn costs over HTTP, beside a bare aiohttp call: `python benchmarks/turns.py [--only ROW,...] [--codex PATH]`.

One mock server of the Responses API, in a process of its own, answers everybody. The bare call POSTs the bodies that
this runtime POSTs, and decodes the JSON of each event; the two take turns within one process, and "x bare" is how many
times the bare call's figure this runtime's (or another's) is, the median of those pairs. A turn of this runtime keeps
what it says (durability flush, a home in a temporary folder) before it shows it; the bare call keeps nothing.
CPU is that of the client's process, all its OS threads; the server's is not in it. Figures are medians of their rounds.
Exit status: 0 all measured (targets met or not), 2 a row measured nothing, lost something or counted wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import _clients
import _lib
import aiohttp
from _clients import MODEL
from _lib import ROOT, Extras, Figure, Group, NotHereError, NothingMeasuredError, Settings, check, percentile
from _measures import (
    DELTAS,
    EACH,
    PER_THREAD,
    THREADS,
    WAITING,
    Measure,
    at_once,
    cancelled,
    flood,
    interrupted,
    one_by_one,
    waiting,
)

MOCK = ROOT.parent / "shared" / "codex" / "tools" / "mock_responses.py"
TEXT = "hello"
FLOOD = f"x [[deltas:{DELTAS}]]"
SLOW_S = 10.0
"""How long the server then keeps each of them waiting in the middle of its answer."""


# --- rows ------------------------------------------------------------------------------------------------------------


def row(measure: Measure, text: str, is_read: bool, settings: Settings) -> Mapping[str, float]:
    """This runtime and the bare call, against the server that answers at once."""

    async def measured(base_url: str, home: Path) -> Mapping[str, float]:
        bodies = await _clients.bodies_of(base_url, home, text, 1 if is_read else PER_THREAD + 1)
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(_clients.runtime(base_url, home, text, is_read=is_read))
            bare = await stack.enter_async_context(_clients.bare(base_url, bodies))
            return await measure((ours, bare), ("ours", "bare"), settings)

    return on_loop(settings, measured, fast=True)


def row_sdk(settings: Settings) -> Mapping[str, float]:
    """The SDK and the bare call: the three rows above."""

    async def measured(base_url: str, home: Path) -> Mapping[str, float]:
        figures: dict[str, float] = {}
        for measure, text in ((one_by_one, TEXT), (at_once, TEXT), (flood, FLOOD)):
            turns = 1 if measure is flood else PER_THREAD + 1
            bodies = await _clients.bodies_of(base_url, home, text, turns)
            async with AsyncExitStack() as stack:
                theirs = await stack.enter_async_context(_clients.sdk(base_url, text))
                bare = await stack.enter_async_context(_clients.bare(base_url, bodies))
                figures |= await measure((theirs, bare), ("sdk", "sdk_bare"), settings)
        return figures

    return on_loop(settings, measured, fast=True)


def on_loop(settings: Settings, measured: Callable[[str, Path], Any], *, fast: bool) -> Mapping[str, float]:
    """Run `measured(base_url, home)` beside a server of its own."""
    with _clients.server(settings.options.mock, fast=fast) as base_url, tempfile.TemporaryDirectory() as home:
        return _lib.run_on_loop(settings, measured(base_url, Path(home)))


def row_interrupt(settings: Settings) -> Mapping[str, float]:
    """An interrupt in the middle of a stream, kept before it is shown; beside it, a task that is cancelled there."""

    async def measured(base_url: str, home: Path) -> Mapping[str, float]:
        ours, bare = [], []
        async with _clients.manager(base_url, home) as threads, aiohttp.ClientSession() as session:
            body = json.dumps({"model": MODEL, "input": [{"role": "user", "content": "x [[slow:30]]"}]}).encode()
            for _ in range(20 if settings.quick else 60):
                ours.append(await interrupted(threads))
                bare.append(await cancelled(session, base_url, body))
        figures = {"interrupt_min": min(ours), "interrupt": median(ours), "interrupt_p90": percentile(ours, 90)}
        return {**figures, "cancel": median(bare)}

    return on_loop(settings, measured, fast=False)


def waiting_of(name: str, settings: Settings) -> Mapping[str, float]:
    """`waiting`, of this runtime (`ours`) or of bare calls (`bare`)."""
    short, long = "[[slow:0.01]]", f"[[slow:{SLOW_S:g}]]"

    async def measured(base_url: str, home: Path) -> Mapping[str, float]:
        if name == "ours":
            async with _clients.runtime(base_url, home, f"x {long}") as begin:
                return await waiting(begin, base_url)
        bodies = await _clients.bodies_of(base_url, home, f"x {short}", 2)
        bodies = [body.replace(short.encode(), long.encode()) for body in bodies]
        async with _clients.bare(base_url, bodies) as begin:
            return await waiting(begin, base_url)

    return on_loop(settings, measured, fast=False)


def row_waiting(settings: Settings) -> Mapping[str, float]:
    """Each in a process of its own: memory that the other gave back would count as free."""
    context = multiprocessing.get_context("spawn")
    figures: dict[str, float] = {}
    for name in ("bare", "ours"):
        with ProcessPoolExecutor(1, context) as pool:
            found = pool.submit(waiting_of, name, settings).result()
        figures |= {f"{name}_waiting_{key}": value for key, value in found.items()}
    return figures | {"waiting_ratio": figures["ours_waiting_kib"] / figures["bare_waiting_kib"]}


# --- Codex -----------------------------------------------------------------------------------------------------------


def _run_whole(command: list[str], timeout_s: float) -> None:
    """Run a command that starts others; none of them outlives it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            check(process.wait(timeout_s) == 0, f"{command[1]} ended with {process.returncode}")
        except subprocess.TimeoutExpired:
            raise NothingMeasuredError(f"{command[1]} was not done within {timeout_s:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def row_codex(number: int, settings: Settings) -> Mapping[str, float]:
    """A real Codex behind its app-server, by the script beside the mock; the bare call behind it, for the ratio."""
    codex, script = settings.options.codex[number], settings.options.mock.parent / "codex_bench.py"
    if not script.is_file():
        raise NotHereError(f"{script.name} is not beside the mock server")

    async def bare(base_url: str, home: Path) -> Mapping[str, float]:
        bodies = await _clients.bodies_of(base_url, home, TEXT, PER_THREAD + 1)
        async with _clients.bare(base_url, bodies) as begin:
            return await one_by_one((begin, begin), ("bare", "again"), settings)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "figures.json")
        command = [sys.executable, str(script), "--codex", str(codex), "--out", str(out)]
        command += ["--only", "turns,deltas,interrupt", "--reps", "2" if settings.quick else "3"]
        _run_whole(command, _lib.ROW_TIMEOUT_S - 60)
        found = json.loads(out.read_text(encoding="utf-8"))
    bare_ms = on_loop(settings, bare, fast=True)["bare_turn"]
    failed = [found[name]["error"] for name in ("turns", "deltas", "interrupt") if "error" in found[name]]
    check(not failed, f"{codex.name}: {failed}")
    turns, deltas, prefix = found["turns"], found["deltas"], f"codex_{number + 1}"
    check(deltas["delta_notifications"] == DELTAS, f"{deltas['delta_notifications']:,} of {DELTAS:,} deltas came")
    many = turns["100_threads_x5"]
    return {
        f"{prefix}_ratio": turns["single_ms"]["median"] / bare_ms,
        f"{prefix}_turn_min": turns["single_ms"]["min"],
        f"{prefix}_turn": turns["single_ms"]["median"],
        f"{prefix}_rate": many["turns_per_s_best"],
        f"{prefix}_cpu": many["cpu_ms_per_turn"],
        f"{prefix}_flood": deltas["deltas_per_s"],
        f"{prefix}_flood_cpu": deltas["cpu_s"],
        f"{prefix}_interrupt": found["interrupt"]["while_streaming_ms"]["median"],
    }


# --- the table -------------------------------------------------------------------------------------------------------

SDK_NOTE = (
    "openai-agents, streamed, over aiohttp, tracing off, no session: it keeps nothing, and hands its history on from turn "
    "to turn in memory."
)
CODEX_NOTE = (
    "Codex behind its app-server; the figures hold JSON-RPC over its pipes and the asyncio client there, CPU is that of its "
    "process alone. It does more than this runtime: its own tools and instructions go with each request, and newer versions "
    "write SQLite databases of state, history and logs beside the rollout, some 0.3 MB a turn. Its shell snapshots are off."
)


def turn_figures(name: str, what: str, targets: Mapping[str, float], bare: str) -> tuple[tuple[Figure, ...], ...]:
    """The figures of the first three rows."""
    return (
        (
            Figure(f"{name}_turn_ratio", f"one turn of {what}, to the bare call", "x bare"),
            Figure(f"{name}_turn_min", "  shortest", "ms"),
            Figure(f"{name}_turn", "  median", "ms", at_most=targets.get("turn")),
            Figure(f"{bare}_turn_min", "  bare call, shortest", "ms"),
            Figure(f"{bare}_turn", "  bare call, median", "ms"),
        ),
        (
            Figure(f"{name}_rate_ratio", f"{THREADS} threads x {EACH} turns of {what}, to bare calls", "x bare"),
            Figure(f"{name}_rate", "  rate", "turns/s", at_least=targets.get("rate")),
            Figure(f"{name}_cpu", "  CPU a turn", "ms", at_most=targets.get("cpu")),
            Figure(f"{bare}_rate", "  bare calls", "turns/s"),
            Figure(f"{bare}_cpu", "  bare calls: CPU each", "ms"),
        ),
        (
            Figure(f"{name}_flood_ratio", f"{DELTAS:,} deltas in a turn of {what}, to a bare call", "x bare"),
            Figure(f"{name}_flood", "  one reader, none lost or merged", "deltas/s", at_least=targets.get("flood")),
            Figure(f"{name}_flood_cpu", "  CPU", "s"),
            Figure(f"{bare}_flood", "  bare call", "deltas/s"),
            Figure(f"{bare}_flood_cpu", "  bare call: CPU", "s"),
        ),
    )


OURS = turn_figures("ours", "this runtime", {"turn": 1.0, "rate": 1_500, "cpu": 0.6, "flood": 80_000}, "bare")

GROUPS = (
    Group("turn", partial(row, one_by_one, TEXT, False), OURS[0]),
    Group("threads", partial(row, at_once, TEXT, False), OURS[1]),
    Group("deltas", partial(row, flood, FLOOD, True), OURS[2]),
    Group(
        "interrupt",
        row_interrupt,
        (
            Figure("interrupt", "interrupt in a stream, to turn_aborted, median", "ms", at_most=0.5),
            Figure("interrupt_min", "  shortest", "ms"),
            Figure("interrupt_p90", "  9 of 10 take at most", "ms"),
            Figure("cancel", "  a cancelled bare call (it keeps and tells nothing)", "ms"),
        ),
    ),
    Group(
        "waiting",
        row_waiting,
        (
            Figure("waiting_ratio", f"{WAITING:,} waiting turns, memory to bare calls", "x bare"),
            Figure("ours_waiting_kib", "  memory each, connection and thread included", "KiB", at_most=64),
            Figure("bare_waiting_kib", "  bare calls: memory each", "KiB"),
            Figure("ours_waiting_os_threads", "  OS threads that they added", "", at_most=16),
            Figure("ours_waiting_lag", "  loop lag, all begin, wait, stream and end: p99", "ms", at_most=20),
            Figure("ours_waiting_lag_max", "  loop lag, worst", "ms"),
            Figure("bare_waiting_lag", "  bare calls: loop lag, p99", "ms"),
            Figure("bare_waiting_lag_max", "  bare calls: loop lag, worst", "ms"),
            Figure("ours_waiting_cpu", "  CPU a turn", "ms"),
            Figure("bare_waiting_cpu", "  bare calls: CPU each", "ms"),
        ),
    ),
    Group("sdk", row_sdk, sum(turn_figures("sdk", "openai-agents", {}, "sdk_bare"), ()), repeats=1, note=SDK_NOTE),
)


def codex_group(number: int, codex: Path) -> Group:
    """The row of one `--codex`."""
    done = subprocess.run([codex, "--version"], capture_output=True, text=True, timeout=30, check=True)
    prefix, what = f"codex_{number + 1}", f"Codex {done.stdout.split()[-1]}"
    figures = (
        Figure(f"{prefix}_ratio", f"one turn of {what}, to the bare call", "x bare"),
        Figure(f"{prefix}_turn_min", "  shortest", "ms"),
        Figure(f"{prefix}_turn", "  median", "ms"),
        Figure(f"{prefix}_rate", f"{THREADS} threads x {EACH} turns (best round)", "turns/s"),
        Figure(f"{prefix}_cpu", "  CPU a turn (best round)", "ms"),
        Figure(f"{prefix}_flood", f"{DELTAS:,} deltas (best round)", "deltas/s"),
        Figure(f"{prefix}_flood_cpu", "  CPU", "s"),
        Figure(f"{prefix}_interrupt", "interrupt in a stream, median", "ms"),
    )
    return Group(prefix, partial(row_codex, number), figures, repeats=1, note=CODEX_NOTE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the server is, and the Codexes to compare with."""
    parser.add_argument("--mock", type=Path, metavar="PATH", default=MOCK, help="the mock server's script")
    parser.add_argument(
        "--codex", type=Path, metavar="PATH", action="append", default=[], help="also this Codex binary"
    )


def flags_of(options: argparse.Namespace) -> list[str]:
    """The options for a row's process, their paths absolute."""
    options.mock = options.mock.resolve()
    options.codex = [path.resolve() for path in options.codex]
    if not options.mock.is_file():
        raise SystemExit(f"the mock server is missing: {options.mock}; give its script with --mock PATH")
    for codex in options.codex:
        if not codex.is_file():
            raise SystemExit(f"no Codex binary: {codex}; give one with --codex PATH")
    return ["--mock", str(options.mock), *(flag for path in options.codex for flag in ("--codex", str(path)))]


def codex_groups(options: argparse.Namespace) -> tuple[Group, ...]:
    """One for each `--codex`."""
    return tuple(codex_group(number, path) for number, path in enumerate(options.codex))


if __name__ == "__main__":
    sys.exit(_lib.main(Path(__file__), __doc__, GROUPS, Extras(add_options, flags_of, codex_groups)))
