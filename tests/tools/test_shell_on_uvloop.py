from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from codex_actors.protocol.ids import ThreadId
from codex_actors.testing import no_leaks
from codex_actors.tools.shell import shell_tool
from codex_actors.tools.tool import ToolContext, ToolError

uvloop = pytest.importorskip("uvloop")

CONTEXT = ToolContext(ThreadId("0193b5b8-0000-7000-8000-000000000001"), "t1", "c1", None, cwd=Path("/"))


def read(command: str) -> str:
    """What the model reads of a command that may take half a second."""

    async def main() -> Any:
        try:
            return await shell_tool().call(json.dumps({"command": command, "timeout_ms": 500}), CONTEXT)
        except ToolError as error:
            return str(error)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return str(runner.run(main()))


@pytest.fixture(scope="module", autouse=True)
def _pipe_of_libuv() -> None:
    read("true")  # libuv opens two file descriptors with its first child and keeps them


def test_commands_run_and_are_killed() -> None:
    with no_leaks():
        assert read("echo hi").endswith("\nOutput:\nhi\n")
        assert read("sleep 60").startswith("Exit code: 124\n")


def test_loop_may_run_in_any_os_thread() -> None:
    with no_leaks():
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(read("echo hi")))
        thread.start()
        thread.join(30)
        assert texts[0].endswith("\nOutput:\nhi\n")
