from __future__ import annotations

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from codex_actors.cli import app

COMMANDS = [
    "archive",
    "fork",
    "ls",
    "models",
    "name",
    "resume",
    "run",
    "salvage",
    "show",
    "tree",
    "unarchive",
    "verify",
]


def help_of(*command: str) -> str:
    ran = CliRunner().invoke(app, [*command, "--help"], prog_name="codex-actors", terminal_width=120)
    assert ran.exit_code == 0
    return ran.output


def test_help_lists_each_command_whole() -> None:
    listed = help_of().partition("Commands:\n")[2].splitlines()
    assert sorted(line.split()[0] for line in listed) == COMMANDS
    assert [line for line in listed if "..." in line] == []


def test_commands_are_those_that_are_tested() -> None:
    assert sorted(get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_text_and_example(name: str) -> None:
    said = help_of(name)
    assert re.search(r"^ {2}[A-Z].*\.$", said, re.MULTILINE)
    assert re.search(rf"^ {{2}}Examples?:\n(.*\n)?.*codex-actors {name}\b", said, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_has_a_help_text(name: str) -> None:
    parameters = get_command(app).commands[name].params  # type: ignore[attr-defined]
    options = [each for each in parameters if each.param_type_name == "option"]
    assert [each.name for each in options if not each.help] == []


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_is_shown_without_a_command(arguments: list[str]) -> None:
    assert "Agent threads from a shell" in CliRunner().invoke(app, arguments).output


def test_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"codex-actors \d+\.\d+\.\d+\S*\n", CliRunner().invoke(app, ["--version"]).output)
