"""How benchmarks measure and report: rows in fresh processes, memory, percentiles, the table of figures and targets."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
ROW_TIMEOUT_S = 600.0
MARK = "figures: "
"""Begins the one line of a row's output that its parent reads."""
ABSENT = "absent: "
"""Begins that line where the row has nothing to measure here."""


class NothingMeasuredError(Exception):
    """A row did not do what it claims to time: its figures would be worth nothing."""


class NotHereError(Exception):
    """What a row would measure is not on this machine; its text says what is missing."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a row is told; `options` are those of its own benchmark."""

    quick: bool
    uvloop: bool
    options: argparse.Namespace


Row = Callable[[Settings], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report.

    Attributes:
        key: What the row calls it.
        at_most, at_least: The target, in the figure's unit.
        versus: The key of raw pykka's figure for the same thing.
        ratio_at_least: The target, in times better than raw pykka's.
    """

    key: str
    label: str
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    versus: str | None = None
    ratio_at_least: float | None = None

    @property
    def more_is_better(self) -> bool:
        """Rates are better when higher, all else when lower."""
        return self.unit.endswith("/s")

    def target(self) -> str:
        """The target as text; empty without one."""
        if self.ratio_at_least is not None:
            return f">= {self.ratio_at_least:g} x pykka"
        if self.at_most is not None:
            return f"<= {self.at_most:,g}"
        return "" if self.at_least is None else f">= {self.at_least:,g}"

    def verdict(self, value: float, ratio: float | None) -> str:
        """PASS, MISS, or nothing where there is no target."""
        if not self.target():
            return ""
        if self.ratio_at_least is not None:
            met = ratio is not None and ratio >= self.ratio_at_least
        elif self.at_most is not None:
            met = value <= self.at_most
        else:
            met = value >= (self.at_least or 0.0)
        return "PASS" if met else "MISS"

    def ratio(self, value: float, values: Mapping[str, float]) -> float | None:
        """How many times better than raw pykka; None where nothing compares, or the figure is within the noise of 0."""
        other = None if self.versus is None else values.get(self.versus)
        if other is None or value <= 0:
            return None
        return value / other if self.more_is_better else other / value


@dataclass(frozen=True, slots=True)
class Group:
    """A row and its figures. `repeats` fresh processes are run; the figure is their median. `note` is for the reader."""

    name: str
    row: Row
    figures: tuple[Figure, ...]
    repeats: int = 3
    note: str = ""


@dataclass(frozen=True, slots=True)
class Extras:
    """What one benchmark adds to the front of all.

    Attributes:
        add_options: To the parser.
        flags: The options as a row's process takes them; raises `SystemExit` where one of them cannot be used.
        groups: Rows that depend on the options.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    flags: Callable[[argparse.Namespace], list[str]]
    groups: Callable[[argparse.Namespace], tuple[Group, ...]]


NO_EXTRAS = Extras(lambda parser: None, lambda options: [], lambda options: ())


# --- inside a row ----------------------------------------------------------------------------------------------------


def check(claim: object, text: str) -> None:
    """Refuse to report figures of a row that did not do its work.

    Raises:
        NothingMeasuredError: `claim` is false.
    """
    if not claim:
        raise NothingMeasuredError(text)


def run_on_loop(settings: Settings, coroutine: Coroutine[Any, Any, Mapping[str, float]]) -> Mapping[str, float]:
    """Run a row on asyncio's own loop, or on uvloop's."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if settings.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)


def rss_bytes() -> int:
    """What this process holds in memory, after garbage and free pages are given back."""
    for _ in range(3):
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(psutil.Process().memory_info().rss)


def os_threads() -> int:
    """How many OS threads this process has."""
    return int(psutil.Process().num_threads())


def size_of(roots: Iterable[object]) -> int:
    """The bytes of all objects below `roots`, each counted once; classes, functions and modules are not counted."""
    seen: set[int] = set()
    stack, total = list(roots), 0
    while stack:
        item = stack.pop()
        if id(item) in seen or item is None or isinstance(item, type | ModuleType) or callable(item):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        stack += gc.get_referents(item)
    return total


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that `percent` of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def per_second(count: int, begun_s: float) -> float:
    """The rate of `count` things done since `begun_s` (of `time.perf_counter`)."""
    return count / (time.perf_counter() - begun_s)


def micros(count: int, begun_s: float) -> float:
    """Microseconds for each of `count` things done since `begun_s` (of `time.perf_counter`)."""
    return (time.perf_counter() - begun_s) / count * 1e6


def answer(row: Row, settings: Settings) -> None:
    """Run a row in this process and hand its figures to the parent. A row that measured nothing ends it with 2."""
    try:
        figures = row(settings)
    except NotHereError as reason:
        print(f"{ABSENT}{reason}", flush=True)
        os._exit(0)
    except NothingMeasuredError as error:
        # Not by way of an exit that waits for what the row left running.
        print(f"NOTHING MEASURED: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    print(MARK + json.dumps(dict(figures)), flush=True)
    # What a row leaves running (thousands of pykka's OS threads) is not worth a tidy exit.
    os._exit(0)


# --- in the parent ---------------------------------------------------------------------------------------------------


def measure(
    script: Path, groups: Sequence[Group], flags: Sequence[str], *, quick: bool
) -> tuple[dict[str, list[float]], dict[str, str], dict[str, str]]:
    """Run all rows, round after round, each in a fresh process of this interpreter.

    Returns:
        The samples of each figure; why rows failed, by their names: one that did not end, or left a figure out; and
        what others would measure that is not here.
    """
    samples: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    absent: dict[str, str] = {}
    for number in range(1 if quick else max(group.repeats for group in groups)):
        for group in groups:
            if number >= group.repeats or group.name in failures or group.name in absent:
                continue
            print(f"  {group.name} ...", file=sys.stderr, flush=True)
            try:
                values = _run_row(script, group, flags)
            except NotHereError as reason:
                absent[group.name] = str(reason)
                continue
            except NothingMeasuredError as error:
                failures[group.name] = str(error)
                continue
            for key, value in values.items():
                samples.setdefault(key, []).append(value)
    return samples, failures, absent


def _run_row(script: Path, group: Group, flags: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, str(script), "--row", group.name, *flags]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROW_TIMEOUT_S, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        raise NothingMeasuredError(f"row {group.name}: not done within {ROW_TIMEOUT_S:g} s") from None
    for line in done.stdout.splitlines():
        if line.startswith(ABSENT):
            raise NotHereError(line.removeprefix(ABSENT))
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or len(lines) != 1:
        raise NothingMeasuredError(f"row {group.name} (exit {done.returncode}): {done.stderr.strip()[-1000:]}")
    values: dict[str, float] = json.loads(lines[0].removeprefix(MARK))
    missing = {figure.key for figure in group.figures} - values.keys()
    check(not missing, f"row {group.name} left out {', '.join(sorted(missing))}")
    return values


def machine(*, uvloop: bool) -> dict[str, str]:
    """What the figures hold for."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # no /proc on this system
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "load unknown"
    loop = f"uvloop {version('uvloop')}" if uvloop else "asyncio"
    state = "on" if gc.isenabled() else "off"
    return {
        "machine": f"{model}, {cores} cores, {platform.system()}, {load} at the start",
        "python": f"{platform.python_implementation()} {platform.python_version()}, gc {state} {gc.get_threshold()}",
        "packages": f"pykka {version('pykka')}, pydantic {version('pydantic')}, loop: {loop}",
    }


def report(
    groups: Sequence[Group], samples: Mapping[str, Sequence[float]], absent: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Print each figure with raw pykka's ratio, its target and the verdict; the same as records."""
    values = {key: statistics.median(seen) for key, seen in samples.items()}
    records: list[dict[str, Any]] = []
    column = "x pykka" if any(figure.versus for group in groups for figure in group.figures) else ""
    print(f"{'':<58}{'value':>12} {'unit':<10}{'min .. max':>22}  {column:>8}  {'target':<15}")
    for group in groups:
        reason = absent.get(group.name)
        print(group.name if reason is None else f"{group.name}: {reason}")
        if reason is not None:
            continue
        if group.note:
            print(textwrap.fill(group.note, 118, initial_indent="  ", subsequent_indent="  "))
        for figure in group.figures:
            value, seen = values[figure.key], samples[figure.key]
            ratio = figure.ratio(value, values)
            verdict = figure.verdict(value, ratio)
            spread = f"{_short(min(seen))} .. {_short(max(seen))}" if len(seen) > 1 else ""
            times = "" if ratio is None else f"{ratio:.2f}"
            line = f"  {figure.label:<56}{_short(value):>12} {figure.unit:<10}{spread:>22}  {times:>8}"
            print(f"{line}  {figure.target():<15} {verdict}".rstrip())
            record: dict[str, Any] = {"row": group.name, "key": figure.key, "label": figure.label, "unit": figure.unit}
            record |= {"value": value, "samples": list(seen), "ratio": ratio}
            records.append(record | {"target": figure.target(), "verdict": verdict})
    return records


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def chosen(groups: Sequence[Group], only: str | None) -> list[Group]:
    """The rows to run, and those of raw pykka that they are compared with."""
    if only is None:
        return list(groups)
    names = set(only.split(","))
    unknown = names - {group.name for group in groups}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; there are {', '.join(group.name for group in groups)}")
    needed = {figure.versus for group in groups if group.name in names for figure in group.figures}
    return [group for group in groups if group.name in names or any(f.key in needed for f in group.figures)]


def main(program: Path, description: str | None, groups: Sequence[Group], extras: Extras = NO_EXTRAS) -> int:
    """Measure the rows of `program` and report; its exit status."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ROW,...", help=", ".join(group.name for group in groups))
    parser.add_argument("--quick", action="store_true", help="small counts, one round: no figures to quote")
    parser.add_argument("--uvloop", action="store_true", help="our loops are uvloop's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    extras.add_options(parser)
    options = parser.parse_args()
    flags = [flag for flag in ("--quick", "--uvloop") if flag in sys.argv[1:]] + extras.flags(options)
    groups = (*groups, *extras.groups(options))
    if options.row is not None:
        row = next(group.row for group in groups if group.name == options.row)
        answer(row, Settings(options.quick, options.uvloop, options))
    wanted = chosen(groups, options.only)
    command = shlex.join(["python", f"benchmarks/{program.name}", *sys.argv[1:]])
    header = {"command": command, **machine(uvloop=options.uvloop)}
    print("\n".join(f"{name + ':':<10}{text}" for name, text in header.items()), flush=True)
    samples, failures, absent = measure(program, wanted, flags, quick=options.quick)
    records = report([group for group in wanted if group.name not in failures], samples, absent)
    missed = [record["label"].strip() for record in records if record["verdict"] == "MISS"]
    print(f"{len(failures)} rows measured nothing{': ' if failures else ''}{', '.join(failures)}")
    print(f"{len(missed)} targets missed{': ' if missed else ''}{'; '.join(missed)}")
    if options.json is not None:
        options.json.write_text(json.dumps({**header, "figures": records}, indent=1) + "\n", encoding="utf-8")
    for failure in failures.values():
        print(f"NOTHING MEASURED: {failure}", file=sys.stderr)
    return 2 if failures else 0
