"""`python -m codex_actors.rollout.salvage FILE... [--apply]`: take the damage out of rollouts.

Without `--apply` it only says what would be taken out. Exit code: 0 if all are sound now, 1 if one is damaged, 2 if one
cannot be read or written. A thread of a home that somebody writes is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from codex_actors.errors import RolloutError
from codex_actors.rollout.chain import home_of
from codex_actors.rollout.claims import Claims
from codex_actors.rollout.damage import Report, salvage, verify
from codex_actors.rollout.reader import thread_id_of_path
from codex_actors.rollout.verify import parser_of, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes those of the process. Returns the exit code."""
    parser = parser_of("salvage", "Take the damage out of rollouts; it is set aside in FILE.torn.")
    parser.add_argument("--apply", action="store_true", help="write; without it only say what would be taken out")
    options = parser.parse_args(arguments)
    return show(options.files, partial(salvage_claimed, apply=options.apply), as_json=options.json)


def salvage_claimed(path: Path | str, *, apply: bool = False) -> Report:
    """`salvage`, as the writer of the thread: what lies in a home may have one. Without damage or `apply` nothing is written.

    Raises:
        WriterConflict: the thread has a writer that lives, or Codex has it open.
        LocksUnsupported: the home has no locks.
        RolloutError: as `salvage`; or the file is in a home, and its name is not that of a rollout.
    """
    path = Path(os.path.realpath(path))
    report = verify(path)
    home = home_of(path)
    if report.is_sound or not apply or home is None:
        return salvage(path, apply=apply)
    thread_id = thread_id_of_path(path)
    if thread_id is None:
        raise RolloutError(
            path, "the name is not that of a rollout, so nobody can tell who writes it; copy it elsewhere"
        )
    claims = Claims(home, partial(datetime.now, UTC), is_synced=True)
    try:
        claims.claim(path, thread_id)
        claims.open(path)
        report = salvage(path, apply=True)
        claims.check(path)
        return report
    finally:
        claims.closed(path)
        claims.release(path)
        claims.close()


if __name__ == "__main__":
    sys.exit(main())
