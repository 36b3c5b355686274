from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pexpect  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CAPTURED = ROOT.parent / "shared" / "codex" / "rollouts"
LIMIT_S = 60

Command: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]
Terminal: TypeAlias = Callable[..., Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "captured" in metafunc.fixturenames:
        missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no captured rollouts in {CAPTURED}"))
        metafunc.parametrize(
            "captured",
            sorted(CAPTURED.glob("*/*.jsonl")) or [missing],
            ids=lambda path: path and f"{path.parent.name}/{path.stem}",
        )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))), "CODEX_HOME": str(home), "TERM": "xterm"}


@pytest.fixture
def command(environment: dict[str, str], tmp_path: Path) -> Command:
    def run(*arguments: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "codex_actors", *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            input=given,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    return run


@pytest.fixture
def terminal(environment: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    begun = []

    def spawn(*arguments: str, program: tuple[str, ...] = ("-m", "codex_actors"), **more: str) -> Any:
        with warnings.catch_warnings():
            # Of a fork beside other OS threads: the only one is the watchdog of pytest's `faulthandler_timeout`.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = pexpect.spawn(
                sys.executable,
                [*program, *arguments],
                cwd=str(tmp_path),
                env={**environment, **more},
                timeout=LIMIT_S,
                encoding="utf-8",
                dimensions=(40, 100),
            )
        begun.append(child)
        return child

    yield spawn
    for child in begun:
        child.close(force=True)
