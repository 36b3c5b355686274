"""A thread whose tool asks for approval, in the foreground of a terminal."""

from __future__ import annotations

import sys

from codex_actors import Config, ManagerConfig, Prompt, ScriptedModel, ThreadManager, tool
from codex_actors.cli.choice import can_ask
from codex_actors.cli.drive import Interrupts, drive, run_in_foreground
from codex_actors.cli.notes import notes_for_stderr
from codex_actors.cli.screens import TextScreen
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, ResponseItem
from codex_actors.tools.tool import ToolContext


@tool
async def ask(context: ToolContext) -> str:
    """Ask whether a command may run."""
    decision = await context.ask_approval(["sh", "-c", "rm -f \x1b[8mhidden"], reason="it is in the way")
    return f"decided: {decision}"


def _answer(prompt: Prompt) -> str | list[ResponseItem]:
    outputs = [str(item.output) for item in prompt.input if isinstance(item, FunctionCallOutput)]
    return outputs[-1] if outputs else [FunctionCall(call_id="call_1", name="ask", arguments="{}")]


async def work(timeout_s: float) -> int:
    settings = ManagerConfig(approval_timeout_s=timeout_s)
    screen = TextScreen(notes_for_stderr(), streams=True)
    with Interrupts() as interrupts:
        async with ThreadManager(model=ScriptedModel(_answer), config=settings) as manager:
            interrupts.thread = (await manager.start_thread(Config(tools=(ask,)))).thread
            result = await drive(interrupts.thread, "Go.", screen, asks=can_ask())
            screen.end(result)
            screen.notes.say(f"status: {result.status}")
    return 0


if __name__ == "__main__":
    sys.exit(run_in_foreground(lambda: work(float(sys.argv[1]))))
