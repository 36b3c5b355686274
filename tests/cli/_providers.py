"""Models for `--provider`, in the command's own process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator

from codex_actors import Prompt, ScriptedModel
from codex_actors.errors import ServerOverloaded
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, TextDelta
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, OutputText, ResponseItem


def text(value: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=value),))


async def _begun(prompt: Prompt) -> AsyncIterator[ModelEvent]:
    yield ItemAdded(Message(role="assistant"))
    yield TextDelta("half of the ")
    await asyncio.Event().wait()


def endless() -> ScriptedModel:
    return ScriptedModel(_begun)


async def _silent(prompt: Prompt) -> str:
    await asyncio.Event().wait()
    return ""


def silent() -> ScriptedModel:
    return ScriptedModel(_silent)


def _blocked(prompt: Prompt) -> str:
    threading.Event().wait()
    return ""


def blocking() -> ScriptedModel:
    return ScriptedModel(_blocked)


def _overloaded(prompt: Prompt) -> str:
    raise ServerOverloaded


def overloaded() -> ScriptedModel:
    return ScriptedModel(_overloaded)


def _look(prompt: Prompt) -> str | list[ResponseItem]:
    outputs = [str(item.output) for item in prompt.input if isinstance(item, FunctionCallOutput)]
    if outputs:
        return f"There is: {outputs[0]}"
    call = FunctionCall(call_id="call_1", name="list_files", arguments=json.dumps({"pattern": "*.txt"}))
    return [text("I will look."), call]


def looking() -> ScriptedModel:
    return ScriptedModel(_look, usage=TokenUsage(input_tokens=1200, output_tokens=34, total_tokens=1234))


def breaking() -> ScriptedModel:
    call = FunctionCall(call_id="call_1", name="list_files", arguments="{}")
    return ScriptedModel([[text("I will look."), call]])


def unruly() -> ScriptedModel:
    return ScriptedModel(["\x1b[2Jred\x9b31m é end"])


async def _retried(prompt: Prompt) -> AsyncIterator[ModelEvent]:
    yield ItemDone(text("whole, without deltas"))
    yield Completed(None)


def deltaless() -> ScriptedModel:
    return ScriptedModel(_retried)


def lines() -> ScriptedModel:
    return ScriptedModel(["\n".join(f"line {number}" for number in range(100_000))], delta_chars=4096)


def _run(prompt: Prompt) -> str | list[ResponseItem]:
    """Run what the user says."""
    if isinstance(prompt.input[-1], FunctionCallOutput):
        return str(prompt.input[-1].output)
    said = [item.text for item in prompt.input if isinstance(item, Message)][-1]
    return [FunctionCall(call_id="call_1", name="shell_command", arguments=json.dumps({"command": said}))]


def running() -> ScriptedModel:
    return ScriptedModel(_run)


def _read(prompt: Prompt) -> str:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return " | ".join(text.replace("\n", " ") for text in texts if "AGENTS.md" in text) or "nothing"


def reading() -> ScriptedModel:
    return ScriptedModel(_read)
