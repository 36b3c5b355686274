"""How a thread begins: from nothing, from its own file, or from another thread's lines.

Source: `codex-rs/core/src/codex.rs`, `Session::new` and `record_initial_history`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_actors.actors.messages import Configure
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import UnsupportedOperation
from codex_actors.model.provider import provider_name
from codex_actors.protocol.events import EventMsg, SessionConfigured, TokenUsageInfo
from codex_actors.protocol.history import (
    Forked,
    InputAccepted,
    InputAcceptedLine,
    New,
    Resumed,
    RolloutItem,
    SessionMeta,
    SubAgentSource,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import ResponseItem
from codex_actors.protocol.status import AgentStatus
from codex_actors.protocol.wire import made
from codex_actors.rollout.replay import (
    CallOutput,
    close_open_calls,
    event_messages,
    last_status,
    last_token_usage,
    last_turn_context,
    model_history,
    pending_inputs,
    session_meta,
)
from codex_actors.rollout.writer import rollout_path
from codex_actors.version import __version__

ORIGINATOR = "codex_actors"


@dataclass(slots=True)
class Birth:
    """What a thread begins with. `meta` is None where the file is there already (or will never be)."""

    lines: tuple[RolloutItem, ...]
    history: list[ResponseItem]
    usage: TokenUsageInfo | None
    owed: Sequence[CallOutput]
    """Outputs for calls that never got one: in the history already, in the file at the next append."""
    pending: Sequence[InputAccepted]
    path: Path | None
    meta: SessionMeta | None
    configured: SessionConfigured
    status: AgentStatus
    warning: str | None = None


def configure(shared: Shared, thread_id: ThreadId, message: Configure, config: Config, cwd: str) -> Birth:
    """What the thread begins with; `config` is the message's, held to its parent's policy.

    Raises:
        UnsupportedOperation: the file is paginated, and was to be resumed.
    """
    history = message.initial_history
    keeps = shared.codex_home is not None and not config.ephemeral
    lines = history.get_rollout_items()
    old_meta = session_meta(lines) if lines else None
    path: Path | None = None
    if isinstance(history, Resumed):
        if keeps and old_meta is not None and old_meta.history_mode == "paginated":
            raise UnsupportedOperation(f"resume of a paginated rollout ({history.rollout_path}); fork it instead")
        path = history.rollout_path if keeps else None
    elif keeps and shared.codex_home is not None:
        path = rollout_path(shared.codex_home, thread_id, shared.clock.now())
    forked_from = old_meta.id if isinstance(history, Forked) and old_meta is not None else None
    items: list[ResponseItem] = []
    owed: Sequence[CallOutput] = ()
    if lines:
        items, owed = close_open_calls(model_history(lines))
    meta = None
    if path is not None and not isinstance(history, Resumed):
        meta = first_line(shared, thread_id, message, cwd, forked_from)
    return Birth(
        lines=lines,
        history=items,
        usage=last_token_usage(lines) if lines else None,
        owed=owed,
        pending=pending_inputs(lines) if isinstance(history, Resumed) else (),
        path=path,
        meta=meta,
        status=last_status(lines) if isinstance(history, Resumed) else AgentStatus.PENDING_INIT,
        configured=_configured(shared, thread_id, message, config, cwd, path, forked_from),
        warning=_model_changed(lines, message.model),
    )


def _configured(
    shared: Shared,
    thread_id: ThreadId,
    message: Configure,
    config: Config,
    cwd: str,
    path: Path | None,
    forked_from: ThreadId | None,
) -> SessionConfigured:
    history = message.initial_history
    initial: tuple[EventMsg, ...] | None = None
    optional: dict[str, Any] = {}
    if not isinstance(history, New):
        initial = event_messages(history.get_rollout_items())
        optional = {"initial_messages": initial, "forked_from_id": forked_from}
    if path is not None:
        optional["rollout_path"] = str(path)
    return made(
        SessionConfigured,
        session_id=thread_id,
        model=message.model,
        model_provider_id=provider_name(shared.model.model),
        approval_policy=config.approval_policy,
        sandbox_policy={"type": config.sandbox_policy},
        cwd=cwd,
        **optional,
    )


def first_line(
    shared: Shared, thread_id: ThreadId, message: Configure, cwd: str, forked_from: ThreadId | None
) -> SessionMeta:
    """The meta line. Its `source` is one that every Codex lists; where an agent comes from stands beside it. It names no
    `model_provider`: Codex 0.169 refuses to resume what was recorded with one that it has not configured."""
    source = message.session_source
    lineage: dict[str, Any] = {}
    if isinstance(source, SubAgentSource):
        lineage = {**source.model_dump(exclude_none=True), "thread_source": "subagent"}
    return SessionMeta(
        id=thread_id,
        timestamp=shared.clock.timestamp(),
        cwd=cwd,
        originator=ORIGINATOR,
        cli_version=__version__,
        instructions=message.config.base_instructions,
        source="vscode" if isinstance(source, SubAgentSource) else str(source),
        forked_from_id=forked_from,
        **lineage,
    )


def _model_changed(lines: Sequence[RolloutItem], model: str) -> str | None:
    recorded = last_turn_context(lines) if lines else None
    if recorded is None or recorded.model == model:
        return None
    return f"This thread was recorded with model `{recorded.model}` but goes on with `{model}`; its quality may suffer."


def drop_accepted(lines: Sequence[RolloutItem]) -> tuple[RolloutItem, ...]:
    """The lines of a fork's parent, but for those of our own: an input that another thread accepted is not this one's."""
    return tuple(line for line in lines if not isinstance(line, InputAcceptedLine))
