"""What a thread tells its model about itself, in front of the first input, and what is recorded of a turn's settings.

Where `cwd` is None it is `config.cwd`, else the process's: a thread resolves it once, at its start, and gives it here.

Source: `codex-rs/core/src/codex.rs`, `build_initial_context`; `user_instructions.rs`; `environment_context.rs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_actors.config import Config
from codex_actors.protocol.history import TurnContextItem
from codex_actors.protocol.items import InputText, Message, ResponseItem

USER_INSTRUCTIONS_PREFIX = "# AGENTS.md instructions for "
ENVIRONMENT_CONTEXT_OPEN_TAG = "<environment_context>"


def build_initial_context(config: Config, *, cwd: Path | None = None) -> tuple[Message, ...]:
    """The developer message and the AGENTS.md user message, each if there is text for it, and the environment's.

    Each has one `InputText`.
    """
    where = _text_of(cwd or config.cwd or Path.cwd())
    messages = []
    if config.developer_instructions:
        messages.append(_message("developer", config.developer_instructions))
    if config.user_instructions:
        body = f"<INSTRUCTIONS>\n{config.user_instructions}\n</INSTRUCTIONS>"
        messages.append(_message("user", f"{USER_INSTRUCTIONS_PREFIX}{where}\n\n{body}"))
    escaped = where.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    environment = f"{ENVIRONMENT_CONTEXT_OPEN_TAG}\n  <cwd>{escaped}</cwd>\n</environment_context>"
    messages.append(_message("user", environment))
    return tuple(messages)


def context_changes(config: Config, history: Sequence[ResponseItem], *, cwd: Path | None = None) -> tuple[Message, ...]:
    """The messages of the initial context that `history` does not already have as the newest of their kind.

    All of them for an empty history; none where nothing changed. Instructions that the config no longer has stay in
    the history as they are. Walks back through the history only until each kind is found.
    """
    missing = {_kind(message.role, message.text): message for message in build_initial_context(config, cwd=cwd)}
    changes = dict(missing)
    for kind, text in _newest_first(history):
        if kind in missing:
            if missing.pop(kind).text == text:
                del changes[kind]
            if not missing:
                break
    return tuple(changes.values())


def turn_context(
    config: Config,
    model: str,
    output_schema: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
) -> TurnContextItem:
    """The settings under which turns run, for the rollout."""
    return TurnContextItem(
        cwd=_text_of(cwd or config.cwd or Path.cwd()),
        approval_policy=config.approval_policy,
        sandbox_policy={"type": config.sandbox_policy},
        model=model,
        effort=config.reasoning_effort,
        summary=config.reasoning_summary,
        base_instructions=config.base_instructions,
        user_instructions=config.user_instructions,
        developer_instructions=config.developer_instructions,
        final_output_json_schema=output_schema,
    )


def _newest_first(history: Sequence[ResponseItem]) -> Iterator[tuple[str | None, str]]:
    """The kind and the text of each part: newer Codex versions write several kinds into one message."""
    for item in reversed(history):
        if isinstance(item, Message) and item.role in ("developer", "user"):
            for part in reversed(item.content):
                if isinstance(part, InputText):
                    yield _kind(item.role, part.text), part.text


def _kind(role: str, text: str) -> str | None:
    if role == "developer":
        return "developer"
    if text.startswith(USER_INSTRUCTIONS_PREFIX):
        return "instructions"
    if text.lstrip().lower().startswith(ENVIRONMENT_CONTEXT_OPEN_TAG):
        return "environment"
    return None


def _message(role: str, text: str) -> Message:
    return Message(role=role, content=(InputText(text=text),))


def _text_of(path: Path) -> str:
    """The path as text that JSON can hold: bytes that are not UTF-8 become U+FFFD, as in Codex."""
    return os.fsencode(path).decode(errors="replace")
