"""Resume and fork: from a file, or from a thread that lives here, to a thread. A live thread gives its history itself,
never from its (lagging) file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from codex_actors.actors import messages
from codex_actors.actors.control import AgentControl
from codex_actors.actors.handle import CodexThread, NewThread
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import InvalidRequest, RolloutError, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.history import Forked, InitialHistory, Resumed, RolloutItem, TurnContextItem
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import APPROVAL_POLICIES, Summary
from codex_actors.rollout.reader import get_rollout_history, rollout_path_of, thread_id_of_path
from codex_actors.rollout.replay import last_turn_context, session_meta
from codex_actors.rollout.truncation import truncate_before_nth_user_message
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply


def path_of(value: Path | str) -> Path:
    """The path that the caller means.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"not a path: {value!r}")
    return Path(value).absolute()


def source_of(value: Path | str | ThreadId) -> Path | ThreadId:
    """The thread id, also one that is text, or else the path that the caller means.

    Raises:
        InvalidRequest: it is neither.
    """
    if isinstance(value, str):
        try:
            return ThreadId(value)
        except ValueError:
            return path_of(value)
    return path_of(value)


async def resume(
    shared: Shared, control: AgentControl, path: Path, spawn: Callable[[InitialHistory], messages.SpawnThread]
) -> NewThread:
    """The live thread that writes `path`, or a new one that goes on in it. Who asks while one is loaded gets that one:
    what it has recorded meanwhile would be missing from what a second load had read.

    Runs in: a task on the manager's loop.
    """
    key = thread_id_of_path(path) or path
    if key in shared.moving:
        raise UnsupportedOperation(f"thread {key} is just being archived or unarchived; try again behind that")
    loading = shared.loading.get(key)
    if loading is None:
        load = _resume(shared, control, path, spawn)
        loading = shared.loading[key] = asyncio.get_running_loop().create_task(load)
        loading.add_done_callback(lambda _: shared.loading.pop(key, None))
    return await asyncio.shield(loading)


async def _resume(
    shared: Shared, control: AgentControl, path: Path, spawn: Callable[[InitialHistory], messages.SpawnThread]
) -> NewThread:
    thread_id = thread_id_of_path(path)
    if thread_id is not None:
        thread = await control.ask(messages.FindThread(thread_id, path))
        if thread is not None and thread.rollout_path is not None:
            message = spawn(Resumed(thread_id, (), thread.rollout_path))
            return await control.ask(message)
    return await control.ask(spawn(await _read(shared, path)))


async def fork(
    shared: Shared,
    control: AgentControl,
    nth_user_message: int | None,
    config: Config | None,
    source: Path | ThreadId,
    spawn: Callable[[Config, InitialHistory], messages.SpawnThread],
) -> NewThread:
    """A new thread with a prefix of another's lines. Runs in: a task on the manager's loop."""
    path = None if isinstance(source, ThreadId) else source
    thread_id = source if isinstance(source, ThreadId) else thread_id_of_path(source)
    parent = None if thread_id is None else await control.ask(messages.FindThread(thread_id, path))
    history: InitialHistory
    if parent is not None:
        history = Forked(await _recorded(shared, parent))
        config = config or parent._actor.config
    else:
        history = await _read(shared, path or await _find(shared, thread_id))
        config = config or recorded_config(history.get_rollout_items())
    cut = truncate_before_nth_user_message(history, nth_user_message)
    return await control.ask(spawn(config, cut))


async def _recorded(shared: Shared, thread: CodexThread) -> tuple[RolloutItem, ...]:
    reply: Reply[tuple[RolloutItem, ...]] = Reply(shared.pump, shared.config.ask_timeout_s)
    thread._actor.actor_inbox.put(Letter(messages.GiveHistory(), reply))
    return await reply


async def _find(shared: Shared, thread_id: ThreadId | None) -> Path:
    home = shared.codex_home
    path: Path | None = None
    if home is not None and thread_id is not None:
        path = await shared.load(lambda: rollout_path_of(home, thread_id))
    if path is None:
        raise ThreadNotFound(thread_id or "")
    return path


async def _read(shared: Shared, path: Path) -> InitialHistory:
    limit_s = shared.config.load_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await shared.load(lambda: get_rollout_history(path))
    except TimeoutError:
        raise RolloutError(path, f"not read within {limit_s:g} s") from None


def recorded_config(items: tuple[RolloutItem, ...]) -> Config:
    """The settings that a rollout has recorded; tools are code and are not among them."""
    context, meta = last_turn_context(items), session_meta(items)
    recorded = context or meta
    cwd = Path(recorded.cwd) if recorded is not None else None
    return Config(
        model=context.model if context else None,
        cwd=cwd if cwd is not None and cwd.is_absolute() else None,
        base_instructions=(context.base_instructions if context else None) or (meta.instructions if meta else None),
        developer_instructions=context.developer_instructions if context else None,
        user_instructions=context.user_instructions if context else None,
        **(_recorded_words(context) if context else {}),
    )


def _recorded_words(context: TurnContextItem) -> dict[str, Any]:
    """Those of Codex's words that mean something here."""
    words: dict[str, Any] = {"reasoning_effort": context.effort}
    if context.approval_policy in APPROVAL_POLICIES:
        words["approval_policy"] = context.approval_policy
    if context.summary in get_args(Summary):
        words["reasoning_summary"] = context.summary
    return words
