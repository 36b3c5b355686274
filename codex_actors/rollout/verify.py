"""`python -m codex_actors.rollout.verify FILE...`: whether rollouts are sound. Nothing is written.

Exit code: 0 if all are, 1 if one is damaged or has something that would keep Codex from resuming it, 2 if one cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codex_actors.errors import RolloutError
from codex_actors.rollout.damage import Report, verify

SHOWN = 20
"""Damaged ranges that are listed of one file; `--json` has all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes those of the process. Returns the exit code."""
    parser = parser_of("verify", "Say whether rollouts are sound, and which bytes are not.")
    options = parser.parse_args(arguments)
    return show(options.files, verify, as_json=options.json)


def parser_of(name: str, what: str) -> argparse.ArgumentParser:
    """What both commands take."""
    parser = argparse.ArgumentParser(f"python -m codex_actors.rollout.{name}", description=what)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print a list with one object for each file")
    return parser


def show(paths: Sequence[Path], look: Callable[[Path], Report], *, as_json: bool) -> int:
    """Print what `look` says of each file, and return the exit code."""
    reports: list[Report] = []
    code = 0
    for path in paths:
        try:
            report = look(path)
        except RolloutError as error:
            print(error, file=sys.stderr)
            code = 2
            continue
        reports.append(report)
        code = max(code, code_of(report))
        if not as_json:
            print(text_of(report))
    if as_json:
        print(json.dumps([json_of(report) for report in reports], indent=2))
    return code


def code_of(report: Report) -> int:
    """The exit code for one file: 1 where something is wrong with it that was not taken out."""
    return int(not report.is_resumable or not (report.is_sound or report.is_applied))


def text_of(report: Report) -> str:
    """A line for the file, and one for each damaged range, problem and note."""
    word = "sound" if report.is_sound else "salvaged" if report.is_applied else "damaged"
    word += " bytes, but Codex would not resume it" if report.is_sound and not report.is_resumable else ""
    lines = [
        f"{report.path}: {word}, {report.lines} {'sound ' * (not report.is_sound)}lines ({report.checked} with a crc)"
    ]
    lines += [
        f"  bytes {damage.start} to {damage.end} (line {damage.line}): {damage.what}"
        for damage in report.damages[:SHOWN]
    ]
    if len(report.damages) > SHOWN:
        lines.append(f"  and {len(report.damages) - SHOWN} more")
    lines += [f"  {problem}" for problem in report.problems]
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines)


def json_of(report: Report) -> dict[str, Any]:
    """The report's fields, `is_sound` and `is_resumable`."""
    computed = {"is_sound": report.is_sound, "is_resumable": report.is_resumable}
    return {**asdict(report), "path": str(report.path)} | computed


if __name__ == "__main__":
    sys.exit(main())
