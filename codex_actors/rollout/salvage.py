"""`python -m codex_actors.rollout.salvage FILE... [--apply]`: take the damage out of rollouts.

Without `--apply` it only says what would be taken out. Exit code: 0 if all are sound now, 1 if one is damaged, 2 if one
cannot be read or written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from codex_actors.rollout.damage import salvage
from codex_actors.rollout.verify import parser_of, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; None takes those of the process. Returns the exit code."""
    parser = parser_of("salvage", "Take the damage out of rollouts; it is set aside in FILE.torn.")
    parser.add_argument("--apply", action="store_true", help="write; no other program may write to the files meanwhile")
    options = parser.parse_args(arguments)
    return show(options.files, partial(salvage, apply=options.apply), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
