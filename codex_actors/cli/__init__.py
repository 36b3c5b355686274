"""The command `codex-actors`: agent threads from a shell. It needs the extra `cli` (Typer and Rich)."""

from __future__ import annotations

import sys
from typing import Any

app: Any = None
try:
    from codex_actors.cli.soundness import app
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("rich", "typer"):
        raise

USAGE = 2
"""The exit status of a command line that cannot be meant."""


def main() -> None:
    """What the console script runs; leaves by `SystemExit`."""
    if app is None:
        sys.stderr.write("codex-actors: Typer and Rich are not installed; pip install 'codex-actors[cli]'\n")
        sys.exit(USAGE)
    for stream in (sys.stdout, sys.stderr):
        # A model may say what the stream's encoding does not have.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="codex-actors")
