from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ThreadManager

WAIT_S = 10.0
Entries = dict[str, tuple[int, int, int]]


def kept(home: Path) -> Path:
    with ThreadManager(home) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        thread.run("Hello.").get(timeout=WAIT_S)
        assert thread.rollout_path is not None
        return thread.rollout_path


def entries(home: Path) -> Entries:
    found = [home, *home.rglob("*")]
    return {str(path): (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path in found for stat in [path.lstat()]}


def thread_of(path: Path) -> str:
    return str(json.loads(path.read_text().partition("\n")[0])["payload"]["id"])


def damaged(path: Path) -> Path:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"half":\n', *lines[2:]]))
    return path


def placed(path: Path, home: Path) -> Path:
    """A captured file where Codex had it."""
    began = json.loads(path.read_text().partition("\n")[0])["payload"]["timestamp"][:19].replace(":", "-")
    folder = home / ("archived_sessions" if path.stem == "archived" else f"sessions/{began[:10].replace('-', '/')}")
    folder.mkdir(parents=True, exist_ok=True)
    segment = "_01a00000-0000-7000-8000-000000000001" * (path.stem == "reverted")
    return Path(shutil.copy2(path, folder / f"rollout-{began}-{thread_of(path)}{segment}.jsonl"))


def test_verify_takes_id_begin_and_path(command: Any, home: Path) -> None:
    path = kept(home)
    thread_id = thread_of(path)
    for which in (thread_id, thread_id[:13], str(path)):
        ran = command("verify", which)
        assert (ran.returncode, ran.stdout.startswith(f"{path}: sound, ")) == (0, True), ran.stderr


def test_verify_without_thread_looks_at_all(command: Any, home: Path) -> None:
    paths = sorted([kept(home), damaged(kept(home))])
    ran = command("verify", "--json")
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.returncode, [Path(each["path"]) for each in told]) == (1, paths)
    assert sorted(each["is_sound"] for each in told) == [False, True]


def test_verify_goes_on_behind_what_is_missing(command: Any, home: Path) -> None:
    path = kept(home)
    ran = command("verify", "nobody", str(home / "none.jsonl"), str(path))
    assert (ran.returncode, ran.stdout.startswith(f"{path}: sound")) == (2, True)
    assert ("nobody" in ran.stderr, "none.jsonl" in ran.stderr) == (True, True)


def test_verify_refuses_what_is_no_codex(command: Any, home: Path) -> None:
    ran = command("verify", str(kept(home)), "--codex", "/nowhere/codex")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "codex-actors: --codex /nowhere/codex: there is no such program\n"


def test_verify_of_empty_home_is_said(command: Any, home: Path) -> None:
    ran = command("verify")
    assert (ran.returncode, ran.stderr) == (0, f"codex-actors: no threads are kept in {home}\n")


def test_salvage_writes_only_when_told(command: Any, home: Path) -> None:
    path = damaged(kept(home))
    before = entries(home)
    ran = command("salvage", thread_of(path))
    assert (ran.returncode, entries(home)) == (1, before)
    ran = command("salvage", thread_of(path), "--apply")
    assert (ran.returncode, ": salvaged, " in ran.stdout) == (0, True), ran.stderr
    assert command("verify").returncode == 0
    assert path.with_name(path.name + ".torn").exists()


def test_salvage_leaves_a_thread_with_a_writer(command: Any, home: Path) -> None:
    path = kept(home)
    with ThreadManager(home) as manager:
        manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        data = damaged(path).read_bytes()
        ran = command("salvage", str(path), "--apply")
        assert (ran.returncode, path.read_bytes()) == (2, data)
        assert "writes this rollout" in ran.stderr


@pytest.mark.parametrize("is_closed", [False, True], ids=["writable", "read-only"])
def test_looking_writes_nothing_into_the_home(is_closed: bool, command: Any, home: Path) -> None:
    path, archived = damaged(kept(home)), kept(home)
    torn = kept(home)
    torn.write_bytes(torn.read_bytes()[:-20])
    (home / "archived_sessions").mkdir()
    archived.rename(home / "archived_sessions" / archived.name)
    for folder in [home, *home.rglob("*/")] if is_closed else []:
        folder.chmod(0o555)
    before = entries(home)
    try:
        for line in (["ls"], ["ls", "--archived"], ["tree"], ["show", thread_of(path)], ["verify"]):
            assert command(*line).returncode in (0, 1)
        assert entries(home) == before
    finally:
        for name in before:
            os.chmod(name, 0o755)


@pytest.mark.parametrize("version", ["0.87.0", "0.169.0"])
def test_homes_of_codex_are_looked_at_whole(version: str, command: Any, home: Path, shared_dir: Path) -> None:
    files = sorted((shared_dir / "codex" / "rollouts" / version).glob("*.jsonl"))
    paths = [placed(path, home) for path in files]
    before = entries(home)
    ran = command("verify")
    assert (ran.returncode, ran.stderr, ran.stdout.count(": sound, ")) == (0, "", len(paths))
    for line in (["ls", "--agents"], ["ls", "--archived"], *(["show", str(path)] for path in paths[:4])):
        ran = command(*line)
        assert (ran.returncode, ran.stderr, bool(ran.stdout)) == (0, "", True)
    assert command("tree").returncode == 0  # 0.87 does not record who spawned whom
    assert entries(home) == before
