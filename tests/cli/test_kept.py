from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from codex_actors.cli import app
from tests._kept_files import keep, line, meta_line, thread_id_of, turn_lines

ONE, TWO, THREE = (thread_id_of(number) for number in (1, 2, 3))


def ran(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)])


def said(home: Path, *arguments: str) -> str:
    result = ran(home, *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    keep(home, 1, meta_line(1) + turn_lines("First words."), mtime_s=1_800_000_003)
    keep(home, 2, meta_line(2, parent_thread_id=ONE, agent_nickname="Ann") + turn_lines(), mtime_s=1_800_000_002)
    keep(home, 3, meta_line(3, parent_thread_id=TWO) + turn_lines("Deep."), mtime_s=1_800_000_001)
    keep(home, 4, archived=True, mtime_s=1_800_000_000)
    return home


def test_list_takes_each_filter(home: Path) -> None:
    def ids(*options: str) -> list[str]:
        return [json.loads(each)["id"] for each in said(home, "ls", "--json", *options).splitlines()]

    assert ids() == ids("--search", "FIRST") == ids("--cwd", "/home/user/project") == [ONE]
    assert ids("--agents", "--sort", "created") == [THREE, TWO, ONE]
    assert ids("--archived") == [thread_id_of(4)]


def test_wrong_order_is_one_line(home: Path) -> None:
    result = ran(home, "ls", "--sort", "size")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "size" in result.stderr


def test_tree_is_indented_in_a_pipe(home: Path) -> None:
    assert said(home, "tree").splitlines() == [
        f"{ONE}\tcompleted\t10\tFirst words.",
        f"  {TWO}\tcompleted\t10\tAnn",
        f"    {THREE}\tcompleted\t10\tDeep.",
    ]
    assert said(home, "tree", TWO).splitlines()[0].startswith(TWO)


def test_tree_as_json_nests_agents(home: Path) -> None:
    root = json.loads(said(home, "tree", "--json"))
    (agent,) = root["agents"]
    assert (root["id"], agent["id"], agent["agents"][0]["id"]) == (ONE, TWO, THREE)


def test_thread_that_is_its_own_ancestor_ends(home: Path) -> None:
    keep(home, 1, meta_line(1, parent_thread_id=THREE) + turn_lines())
    assert len(said(home, "tree", ONE).splitlines()) <= 3


def test_home_without_agents_is_said(tmp_path: Path) -> None:
    result = ran(tmp_path, "tree")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no thread of" in result.stderr


def test_thread_is_shown_with_its_turns(home: Path) -> None:
    call = line("response_item", type="function_call", name="look", arguments="{}", call_id="1")
    output = line("response_item", type="function_call_output", call_id="1", output="seen")
    keep(home, 1, meta_line(1) + turn_lines("First.") + turn_lines("Second.") + call + output + "{torn")
    shown = said(home, "show", ONE)
    assert re.search(r"^turn 2 · \S+ · 0 ms · 0 tokens · completed$", shown, re.MULTILINE)
    assert re.search(r"^> Second.\necho: Second.\n\$ look {} → seen \(0 ms\)$", shown, re.MULTILINE)
    assert re.search(r"\n1 damaged line\(s\), which are left out:\n  line 16, bytes \d+ to \d+: no JSON\n$", shown)


def test_show_takes_a_path_and_json(home: Path) -> None:
    path = keep(home, 1)
    shown = json.loads(said(home, "show", str(path), "--json"))
    assert (shown["id"], [turn["status"] for turn in shown["turns"]]) == (ONE, ["completed"])
    assert shown["turns"][0]["tokens"] == 10


@pytest.mark.parametrize("which", ["ffff", "01a2", "nowhere.jsonl", " "])
def test_thread_that_is_none_is_one_line(home: Path, which: str) -> None:
    result = ran(home, "show", which)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert (which.strip() or "thread") in result.stderr


def test_archived_thread_is_not_resumed(home: Path) -> None:
    result = ran(home, "resume", thread_id_of(4)[:-1] + "4", "--embedded", "x")
    assert result.exit_code == 2
    assert f"codex-actors unarchive {thread_id_of(4)}" in result.stderr


def test_archive_and_name_are_undone_and_found(home: Path) -> None:
    said(home, "name", ONE, "the plan")
    assert "archived_sessions" in said(home, "archive", "the plan")
    assert ONE not in said(home, "ls", "--agents")
    said(home, "unarchive", "the plan")
    assert said(home, "ls").split("\t")[-1] == "the plan\n"
    assert not (home / "codex_actors").exists()


def test_each_captured_thread_is_shown(captured: Path, home: Path) -> None:
    shown: dict[str, Any] = json.loads(said(home, "show", str(captured), "--json"))
    assert shown["damage"] == []
    assert shown["lines"] == len(captured.read_text().splitlines())
    assert shown["turns"][-1]["status"] == shown["status"]
    assert sum(turn["tokens"] or 0 for turn in shown["turns"]) <= (shown["tokens"] or 0)


def test_terminal_gets_columns_and_a_tree(terminal: Any, home: Path) -> None:
    listed = terminal("ls", "--agents", "--home", str(home), NO_COLOR="1")
    listed.expect(rf"{ONE} +\S+ \S+ +completed +/home.*First words.")
    drawn = terminal("tree", "--home", str(home))
    drawn.expect(r"├── |└── ")
    drawn.expect("Deep.")
    shown = terminal("show", ONE, "--home", str(home))
    shown.expect("\x1b.*turn 1")
