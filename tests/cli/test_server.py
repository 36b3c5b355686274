from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codex_actors import Prompt, ScriptedModel
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, ResponseItem
from tests._served_model import served


def look(prompt: Prompt) -> str | list[ResponseItem]:
    if isinstance(prompt.input[-1], FunctionCallOutput):
        return f"The tool said: {prompt.input[-1].output}"
    return [FunctionCall(call_id="call_1", name="list_files", arguments='{"pattern": "*.txt"}')]


def test_server_answers_with_key_of_variable(command: Any, home: Path) -> None:
    with served(ScriptedModel()) as server:
        options = ("--base-url", server.base_url, "--model", "some-model", "--env-key", "SOME_KEY")
        ran = command("run", *options, "Hello.", SOME_KEY="sk-some-key")
    assert (ran.returncode, ran.stdout) == (0, "echo: Hello.\n")
    assert server.keys == {"Bearer sk-some-key"}
    assert server.requests[0]["model"] == "some-model"
    assert not any(b"sk-some-key" in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_server_without_a_key_is_sent_none(command: Any) -> None:
    with served(ScriptedModel()) as server:
        ran = command("run", "--base-url", server.base_url, "--model", "m", "Hello.")
    assert (ran.stdout, server.keys) == ("echo: Hello.\n", {None})


def test_key_stored_for_openai_goes_nowhere_else(command: Any, home: Path) -> None:
    home.mkdir()
    (home / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": "sk-stored"}))
    (home / "auth.json").chmod(0o600)
    with served(ScriptedModel()) as server:
        command("run", "--model", "m", "Hello.", OPENAI_BASE_URL=server.base_url)
        command("run", "--model", "m", "Hello.", "--base-url", server.base_url)
    assert server.keys == {None}


def test_server_calls_the_file_tools(command: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with served(ScriptedModel(look)) as server:
        ran = command("run", "--base-url", server.base_url, "--model", "m", "--files", ".", "Look.")
    assert ran.stdout == "The tool said: a.txt (1 bytes)\n"
    assert {tool["name"] for tool in server.requests[0]["tools"]} == {"list_files", "read_file", "search_files"}


def test_url_that_is_none_is_one_line(command: Any) -> None:
    ran = command("run", "--base-url", "localhost:8000", "--model", "m", "Hello.")
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("codex-actors: ModelProviderInfo.base_url: expected a URL")
