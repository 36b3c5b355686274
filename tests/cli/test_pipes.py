from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_answer_alone_stands_on_stdout(command: Any) -> None:
    ran = command("run", "--embedded", "Hello.")
    assert (ran.returncode, ran.stdout) == (0, "echo: Hello.\n")
    assert re.fullmatch(r"\d+ tokens; to go on: codex-actors resume [0-9a-f-]{36}\n", ran.stderr)


def test_pipe_gets_no_colour_and_no_spinner(command: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    ran = command("run", "--provider", "_providers:looking", "--files", ".", "What is here?")
    assert ran.stdout == "There is: a.txt (1 bytes)\n"
    assert "\x1b" not in ran.stdout + ran.stderr
    first, call, _ = ran.stderr.splitlines()
    assert (first, call) == ('✓ list_files pattern="*.txt" → a.txt (1 bytes)', "I will look.")


def test_prompt_is_read_from_stdin(command: Any) -> None:
    assert command("run", "--embedded", "-", given="from a pipe").stdout == "echo: from a pipe\n"


def test_json_has_one_event_per_line(command: Any) -> None:
    ran = command("run", "--model", "scripted", "--json", "Hello.")
    first, *others = events_of(ran.stdout)
    assert (first["id"], first["msg"]["type"]) == ("", "session_configured")
    assert {tuple(event) for event in others} == {("id", "msg")}
    assert others[-1]["msg"]["last_agent_message"] == "echo: Hello."
    assert first["msg"]["session_id"] in ran.stderr


def test_json_survives_any_text_of_model(command: Any) -> None:
    ran = command("run", "--provider", "_providers:unruly", "--json", "Go.", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert events_of(ran.stdout)[-1]["msg"]["last_agent_message"] == "\x1b[2Jred\x9b31m é end"


def test_failed_turn_gives_status_one(command: Any) -> None:
    ran = command("run", "--provider", "_providers:overloaded", "Go.")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[0].startswith("error: the model's server is overloaded")


def test_message_of_failed_turn_is_no_answer(command: Any) -> None:
    ran = command("run", "--provider", "_providers:breaking", "Go.")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "I will look." in ran.stderr
    assert "error: stream disconnected before completion: the script has no answer left" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "Hello."), "codex-actors: no model to ask: set OPENAI_API_KEY, or give --base-url URL of a server"),
        (("run", "--env-key", "NO_SUCH_KEY", "x"), "codex-actors: --env-key: the environment variable NO_SUCH_KEY is"),
        (("run", "--base-url", "http://127.0.0.1:9/v1", "x"), "codex-actors: --model NAME: which one?"),
        (("run", "--embedded", " "), "codex-actors: the prompt is empty"),
        (("run", "--embedded", "--files", "nowhere", "x"), "codex-actors: --files nowhere: there is no such folder"),
        (
            ("run", "--provider", "nowhere:model", "x"),
            "codex-actors: --provider nowhere:model: No module named 'nowhere'",
        ),
    ],
    ids=["no_key", "empty_key", "no_name", "no_prompt", "no_folder", "no_provider"],
)
def test_what_cannot_begin_gets_one_line(command: Any, arguments: tuple[str, ...], says: str) -> None:
    ran = command(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith(says)


def test_wrong_option_gives_status_two(command: Any) -> None:
    ran = command("run", "--no-such-option", "x")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--no-such-option" in ran.stderr


def test_error_of_runtime_is_one_line(command: Any) -> None:
    ran = command("resume", "019ac5a1-6a5e-7d02-8f4e-6d1a3f0c2b11", "--embedded", "x")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "codex-actors: no thread with id: 019ac5a1-6a5e-7d02-8f4e-6d1a3f0c2b11\n"


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_closed_pipe_ends_it_quietly(environment: dict[str, str], options: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "codex_actors", "run", "--provider", "_providers:lines", "x", *options]
    with subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline()
        child.stdout.close()
        said = child.stderr.read()
    assert child.returncode == 141
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_missing_extra_is_named_in_one_line(environment: dict[str, str]) -> None:
    code = "import sys; sys.modules['typer'] = None; from codex_actors.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "codex-actors: Typer and Rich are not installed; pip install 'codex-actors[cli]'\n"


def test_listing_loads_no_http_client(environment: dict[str, str]) -> None:
    code = (
        "import sys; from codex_actors.cli import main; sys.argv = ['codex-actors', 'ls']\n"
        "try: main()\nexcept SystemExit: pass\nprint('aiohttp' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "False\n"


def test_key_is_shown_nowhere(command: Any, home: Path) -> None:
    key = "sk-never-shown"
    options = ("--base-url", "http://127.0.0.1:9/v1", "--model", "some", "--env-key", "SOME_KEY")
    ran = command("run", "--no-such-option", *options, "x", SOME_KEY=key)
    assert key not in ran.stdout + ran.stderr
    assert not any(key.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_lines_to_stdout_keep_what_models_say(command: Any) -> None:
    assert command("run", "--provider", "_providers:unruly", "Go.").stdout == "\x1b[2Jred\x9b31m é end\n"


def test_stdout_without_a_character_escapes_it(command: Any) -> None:
    ran = command("run", "--provider", "_providers:unruly", "Go.", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stdout) == (0, "\x1b[2Jred\\x9b31m \\xe9 end\n")


def test_model_is_told_the_project_documents(command: Any, tmp_path: Path, home: Path) -> None:
    home.mkdir()
    (home / "AGENTS.md").write_text("Be brief.")
    (tmp_path / "AGENTS.md").write_text("Use tabs.")
    said = command("run", "--provider", "_providers:reading", "Go.").stdout
    assert said.index("Be brief.") < said.index("Use tabs.")
    (tmp_path / "elsewhere").mkdir()
    assert "Use tabs." not in command("run", "--provider", "_providers:reading", "Go.", "--cwd", "elsewhere").stdout
