"""The commands that read write nothing: no file, no folder, no time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codex_actors.cli import app
from codex_actors.rollout.chain import meta_of
from tests._kept_files import keep, line, meta_line, thread_id_of, tree_of, turn_lines

CAPTURED = Path(__file__).parents[3] / "shared" / "codex" / "rollouts"
HAND_MADE = Path(__file__).parents[1] / "rollout" / "data"

READING = [
    ["ls"],
    ["ls", "--agents", "--json"],
    ["ls", "--archived", "--sort", "created"],
    ["ls", "--search", "x"],
    ["tree"],
    ["tree", "--json"],
    ["tree", "THREAD"],
    ["show", "THREAD"],
    ["show", "THREAD", "--json"],
    ["show", "PATH"],
    ["show", "PATH", "--json"],
    ["verify", "THREAD"],
    ["verify", "PATH"],
    ["verify", "PATH", "--json"],
    ["salvage", "PATH"],
]
"""Each is run once, or once for each file of the home (PATH) and some of its threads (THREAD)."""

DAMAGED = [
    b"",
    b"\n\n",
    b"\xff\xfe\x00" * 99,
    b"{}\n",
    b'{"type":"session_meta"}\n',
    turn_lines().encode(),
    b'{"torn',
    meta_line(1).encode()[:-40],
    (meta_line(1) + turn_lines()).encode() + b"{torn\n\n\xff\n" + turn_lines("More.").encode()[:-9],
    (meta_line(1) + "x" * 100_000 + "\n" + turn_lines()).encode(),
    (meta_line(1) + line("event_msg", type="thread_rolled_back", num_turns="?") + turn_lines()).encode(),
]


@pytest.fixture(params=["writable", "read-only"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """All that a home may hold: threads of real and of made-up files, agents, damage, and what other programs keep there."""
    home = tmp_path / "home"
    keep(home, 1, mtime_s=1_800_000_000)
    keep(home, 2, meta_line(2, parent_thread_id=thread_id_of(1)) + turn_lines())
    keep(home, 3, archived=True)
    numbers = count(16)
    for path in sorted(CAPTURED.glob("*/*.jsonl")) + sorted(HAND_MADE.glob("*.jsonl")):
        thread_id = (meta_of(path) or {})["id"]
        place = keep(home, next(numbers)).parent / f"rollout-2027-03-01T11-00-{next(numbers) % 60:02}-{thread_id}.jsonl"
        shutil.copy2(path, place)
    for data in DAMAGED:
        keep(home, next(numbers)).write_bytes(data)
    keep(home, next(numbers)).chmod(0)
    folder = keep(home, next(numbers))
    folder.unlink()
    folder.mkdir()
    gone = keep(home, next(numbers))
    gone.unlink()
    gone.symlink_to("nowhere")
    (home / "session_index.jsonl").write_text('{"id":"x","thread_name":"y"}\n{torn')
    (home / "state_5.sqlite").write_bytes(b"no database")
    all_paths = [home, *home.rglob("*")]
    if request.param == "read-only":
        for path in all_paths:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
    yield home
    for path in all_paths:
        if path.is_dir():
            path.chmod(0o700)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_commands_write_nothing_at_all(home: Path, command: list[str]) -> None:
    paths = sorted(home.rglob("rollout-*.jsonl"))
    before = tree_of(home)
    few = paths[::9] if "THREAD" in command else paths[:1]
    for path in paths if "PATH" in command else few:
        words = {"THREAD": path.stem[28:64], "PATH": str(path)}
        result = CliRunner().invoke(app, [*(words.get(word, word) for word in command), "--home", str(home)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code in (0, 1, 2)
        assert len(result.stderr.splitlines()) <= 1
    assert tree_of(home) == before


def test_all_of_a_home_is_verified_without_a_trace(home: Path) -> None:
    before = tree_of(home)
    result = CliRunner().invoke(app, ["verify", "--home", str(home)])
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    said = [line.partition(": ")[0] for line in result.stdout.splitlines() if not line.startswith("  ")]
    assert len(said) + len(result.stderr.splitlines()) == len(list(home.rglob("rollout-*.jsonl"))) - 1
    assert tree_of(home) == before


def test_thread_beside_damaged_ones_is_shown(home: Path) -> None:
    result = CliRunner().invoke(app, ["show", thread_id_of(1), "--home", str(home)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "echo: Hello." in result.stdout
