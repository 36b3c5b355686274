from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from codex_actors import Config, ThreadManager
from codex_actors.cli.codex_check import Finding, check, differences
from codex_actors.cli.options import Refused

WAIT_S = 10.0
LIMIT_S = 30.0
BINARIES = [path for path in os.environ.get("CODEX_BIN", "").split(":") if path]
SHARED = Path(__file__).parents[3] / "shared" / "codex" / "rollouts"
SERVER = Path(__file__).with_name("_app_server.py")

Program: TypeAlias = Callable[[str], Path]


@pytest.fixture
def rollout(tmp_path: Path) -> Path:
    with ThreadManager(tmp_path / "home") as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        thread.run("Hello.").get(timeout=WAIT_S)
        assert thread.rollout_path is not None
        return thread.rollout_path


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def make(manner: str) -> Path:
        path = tmp_path / "codex"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SERVER}" "{manner}" "{tmp_path}"\n')
        path.chmod(0o755)
        return path

    return make


def found(program: Path, rollout: Path, limit_s: float = LIMIT_S) -> Finding:
    return asyncio.run(check(program, rollout, limit_s=limit_s))


def test_program_that_goes_on_has_no_problem(program: Program, rollout: Path) -> None:
    before = rollout.read_bytes(), rollout.stat()
    assert found(program("goes on"), rollout) == Finding("0.1.2", 2, ())
    assert (rollout.read_bytes(), rollout.stat()) == before


@pytest.mark.parametrize(
    ("manner", "problem"),
    [
        ("forgets", "item 1 was not sent, or not in its place: message assistant echo: Hello."),
        ("invents", "it also sent: message user invented"),
        ("refuses", "it refuses thread/resume: no such chat"),
        ("lists nothing", "it does not list the thread"),
    ],
)
def test_what_differs_is_a_problem(manner: str, problem: str, program: Program, rollout: Path) -> None:
    assert found(program(manner), rollout).problems == (problem,)


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("crashes", r"ended early \(asked for thread/resume\): out of luck"),
        ("is another program", "no Codex with an app-server .*usage: another"),
    ],
)
def test_program_that_fails_is_told_why(manner: str, words: str, program: Program, rollout: Path) -> None:
    with pytest.raises(Refused, match=words):
        found(program(manner), rollout)


def test_program_that_is_missing_is_named(rollout: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="none: there is no such program"):
        found(tmp_path / "none", rollout)


def test_program_that_hangs_is_ended_with_its_children(program: Program, rollout: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"did not finish within 3 s \(asked for thread/resume\)"):
        found(program("hangs"), rollout, limit_s=3)
    with (tmp_path / "held").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the child holds it as long as it lives


def test_program_gets_none_of_the_keys(
    program: Program, rollout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    found(program("goes on"), rollout)
    environment = json.loads((tmp_path / "environment").read_text())
    assert "sk-secret" not in environment.values()
    assert environment["HOME"] == environment["CODEX_HOME"] != str(tmp_path / "home")


def test_long_lists_of_differences_are_cut() -> None:
    items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": str(number)} for number in range(9)]
    said = list(differences(items, [{"role": "user", "content": "What did I say before?"}]))
    assert (len(said), said[-1]) == (4, "6 more items were not sent")


def captured_for(binary: str) -> list[Path]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout
    return sorted((SHARED / said.split()[-1]).glob("*.jsonl"))


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.skipif(not BINARIES, reason="no CODEX_BIN")
@pytest.mark.parametrize("binary", BINARIES, ids=lambda path: str(path).replace("/", "_")[-40:])
def test_real_codex_goes_on_with_each_file(binary: str, rollout: Path) -> None:
    files = [rollout, *captured_for(binary)]
    assert [(path.name, found(Path(binary), path).problems) for path in files] == [(path.name, ()) for path in files]
