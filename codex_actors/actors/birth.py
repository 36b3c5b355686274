"""How a thread begins: from nothing, from its own file, or from another thread's lines.

Source: `codex-rs/core/src/codex.rs`, `Session::new` and `record_initial_history`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_actors.actors.messages import Configure
from codex_actors.actors.pages import Pages
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import UnsupportedOperation
from codex_actors.model.provider import provider_name
from codex_actors.protocol.events import SessionConfigured
from codex_actors.protocol.history import (
    Forked,
    InitialHistory,
    InputAccepted,
    InputAcceptedLine,
    New,
    Replayed,
    Resumed,
    RolloutItem,
    SessionMeta,
    SubAgentSource,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import ResponseItem
from codex_actors.protocol.status import AgentStatus
from codex_actors.protocol.wire import made
from codex_actors.rollout.replay import CallOutput, close_open_calls, replayed_items, session_meta
from codex_actors.rollout.writer import rollout_path
from codex_actors.version import __version__

ORIGINATOR = "codex_actors"


@dataclass(slots=True)
class Birth:
    """What a thread begins with. `meta` is None where the file is there already (or will never be)."""

    state: Replayed | None
    lines: Sequence[Any]
    """What of the lines is in memory, as it goes to the file."""
    history: list[ResponseItem]
    owed: Sequence[CallOutput]
    """Outputs for calls that never got one: in the history already, in the file at the next append."""
    pending: Sequence[InputAccepted]
    path: Path | None
    meta: SessionMeta | None
    configured: SessionConfigured
    status: AgentStatus
    pages: Pages | None = None
    warning: str | None = None


def configure(shared: Shared, thread_id: ThreadId, message: Configure, config: Config, cwd: str) -> Birth:
    """What the thread begins with; `config` is the message's, held to its parent's policy.

    Raises:
        UnsupportedOperation: a paginated file was to be resumed by a history that does not say how its lines go on.
    """
    history = message.initial_history
    keeps = shared.codex_home is not None and not config.ephemeral
    state, lines = begun_with(history)
    path: Path | None = None
    if isinstance(history, Resumed):
        path = history.rollout_path if keeps else None
    elif keeps and shared.codex_home is not None:
        path = rollout_path(shared.codex_home, thread_id, shared.clock.now())
    forked = history if isinstance(history, Forked) else None
    forked_from = state.meta.id if forked is not None and state is not None and state.meta is not None else None
    items: list[ResponseItem] = []
    owed: Sequence[CallOutput] = ()
    if state is not None:
        items, owed = close_open_calls(state.history)
    meta = None
    if path is not None and not isinstance(history, Resumed):
        meta = first_line(shared, thread_id, message, cwd, forked_from, None if forked is None else forked.parent_lines)
    resumed = state if isinstance(history, Resumed) else None
    pages = None
    if (
        path is not None
        and resumed is not None
        and resumed.meta is not None
        and resumed.meta.history_mode == "paginated"
    ):
        if resumed.next_ordinal is None:
            raise UnsupportedOperation(f"resume of a paginated rollout by its items; resume it by its path ({path})")
        pages = Pages(thread_id, resumed.next_ordinal)
    return Birth(
        state=state,
        lines=lines,
        history=items,
        owed=owed,
        pending=() if resumed is None else resumed.pending,
        path=path,
        meta=meta,
        status=AgentStatus.PENDING_INIT if resumed is None else resumed.status,
        configured=_configured(shared, thread_id, message, config, cwd, path, forked_from, state),
        pages=pages,
        warning=_model_changed(state, message.model),
    )


def begun_with(history: InitialHistory) -> tuple[Replayed | None, Sequence[Any]]:
    """What a history comes to, and those of its lines that are in no file; None for a new thread."""
    if isinstance(history, New):
        return None, ()
    items = history.get_rollout_items()
    if history.state is not None:
        return history.state, history.raw.runs if isinstance(history, Forked) else items
    if not items:
        return None, ()
    return replayed_items(items), drop_accepted(items) if isinstance(history, Forked) else items


def meta_of(history: Resumed) -> SessionMeta | None:
    """The meta of what is resumed, or None where it has none."""
    return session_meta(history.history) if history.state is None else history.state.meta


def _configured(
    shared: Shared,
    thread_id: ThreadId,
    message: Configure,
    config: Config,
    cwd: str,
    path: Path | None,
    forked_from: ThreadId | None,
    state: Replayed | None,
) -> SessionConfigured:
    optional: dict[str, Any] = {}
    if not isinstance(message.initial_history, New):
        optional = {"initial_messages": None if state is None else state.events, "forked_from_id": forked_from}
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
    shared: Shared,
    thread_id: ThreadId,
    message: Configure,
    cwd: str,
    forked_from: ThreadId | None,
    forked_from_lines: int | None = None,
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
        forked_from_lines=forked_from_lines,
        **lineage,
    )


def _model_changed(state: Replayed | None, model: str) -> str | None:
    recorded = None if state is None else state.context
    if recorded is None or recorded.model == model:
        return None
    return f"This thread was recorded with model `{recorded.model}` but goes on with `{model}`; its quality may suffer."


def drop_accepted(lines: Sequence[RolloutItem]) -> tuple[RolloutItem, ...]:
    """The lines of a fork's parent, but for those of our own: an input that another thread accepted is not this one's."""
    return tuple(line for line in lines if not isinstance(line, InputAcceptedLine))
