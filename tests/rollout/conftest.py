from __future__ import annotations

from pathlib import Path

import pytest

CAPTURED = Path(__file__).parents[3] / "shared" / "codex" / "rollouts"
"""Files written by real Codex versions; they are not part of this repository."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "captured" in metafunc.fixturenames:
        files = sorted(CAPTURED.glob("*/*.jsonl"))
        missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no captured rollouts in {CAPTURED}"))
        metafunc.parametrize(
            "captured", files or [missing], ids=lambda path: path and f"{path.parent.name}/{path.stem}"
        )
