"""Resume and fork: from a file, or from a thread that lives here, to a thread. A live thread gives its history itself,
never from its (lagging) file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

from codex_actors.actors import messages
from codex_actors.actors.control import AgentControl
from codex_actors.actors.following import RolloutStream
from codex_actors.actors.handle import CodexThread, NewThread
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import InvalidRequest, RolloutError, RolloutUnavailable, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.history import Forked, InitialHistory, Replayed, Resumed, TurnContextItem
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import APPROVAL_POLICIES, Summary
from codex_actors.rollout.chain import Ancestor, ancestor_in, path_of_thread, readable_segments
from codex_actors.rollout.forking import ForkPoint, HistoryDiff, Recorded, diff_of, fork_of, lines_of
from codex_actors.rollout.load import load_rollout, replayed_lines
from codex_actors.rollout.owed import Append
from codex_actors.rollout.reader import rollout_path_of, thread_id_of_path
from codex_actors.rollout.tail import Tail
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply

T = TypeVar("T")

Claim: TypeAlias = Callable[[Path, ThreadId], None]
"""Becomes the writer of the path, or says who is. Runs in: an OS thread for loads."""

LINES_AT_ONCE = 1_000
"""So many lines in memory are looked at on the loop."""

BYTES_AT_ONCE = 1 << 19
"""So much of them."""


def path_of(value: Path | str) -> Path:
    """The path that the caller means.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"not a path: {value!r}")
    return Path(value).absolute()


def source_of(value: CodexThread | Path | str | ThreadId) -> Path | ThreadId:
    """The thread id, also one that is text or a thread's, or else the path that the caller means.

    Raises:
        InvalidRequest: it is neither.
    """
    if isinstance(value, CodexThread):
        return value.thread_id
    if isinstance(value, str):
        try:
            return ThreadId(value)
        except ValueError:
            return path_of(value)
    return path_of(value)


async def resume(
    shared: Shared,
    control: AgentControl,
    path: Path,
    spawn: Callable[[InitialHistory], messages.SpawnThread],
    claim: Claim | None,
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
        load = _resume(shared, control, path, spawn, claim)
        loading = shared.loading[key] = asyncio.get_running_loop().create_task(load)
        loading.add_done_callback(lambda _: shared.loading.pop(key, None))
    return await asyncio.shield(loading)


async def _resume(
    shared: Shared,
    control: AgentControl,
    path: Path,
    spawn: Callable[[InitialHistory], messages.SpawnThread],
    claim: Claim | None,
) -> NewThread:
    thread_id = thread_id_of_path(path)
    if thread_id is not None:
        thread = await control.ask(messages.FindThread(thread_id, path))
        if thread is not None and thread.rollout_path is not None and not await _is_lost(shared, thread):
            message = spawn(Resumed(thread_id, (), thread.rollout_path))
            return await control.ask(message)
    await settled(shared, path)
    if claim is None:
        return await control.ask(spawn(await _resumed(shared, path)))
    if thread_id is None:
        thread_id = (await _resumed(shared, path)).conversation_id
    is_claimed = is_taken = False

    def claim_first() -> None:
        """Before it is read: what another writer appends behind the reading would be missing."""
        nonlocal is_claimed
        claim(path, thread_id)
        is_claimed = True

    try:
        history = await _resumed(shared, path, claim_first)
        is_alive = await control.ask(messages.FindThread(thread_id, path)) is not None
        new = await control.ask(spawn(history))
        is_taken = not is_alive  # one that lives has claimed the path itself
        return new
    finally:
        if is_claimed and not is_taken and shared.claims is not None:
            release = shared.claims.release
            await asyncio.shield(shared.load(lambda: release(path)))


async def _is_lost(shared: Shared, thread: CodexThread) -> bool:
    """Whether somebody has taken the living thread over. It has learned of that, and ends, when this returns."""
    claims, path = shared.claims, thread.rollout_path
    assert path is not None
    if claims is None or not await _load(shared, path, lambda: claims.is_fenced(path)):
        return False
    thread._actor.record.retry()
    await released(shared, path)
    return True


async def settled(shared: Shared, path: Path) -> None:
    """What a thread that lived here has recorded in `path` stands there: its end may be told before.

    Raises:
        RolloutUnavailable: it does not, as the disk takes no lines.
    """
    is_fenced = shared.claims is not None and shared.claims.conflict(path) is not None
    is_behind = shared.config.durability == "memory" and not shared.writer.is_unused
    if is_fenced or is_behind:
        await released(shared, path)
    for owed in [owed for owed in shared.unwritten.reasons if owed.name == path.name]:  # by whatever way it was named
        await released(shared, owed)


async def released(shared: Shared, path: Path) -> None:
    """The writer has come to the end of a thread that lived here. Runs in: a task on the manager's loop.

    Raises:
        RolloutUnavailable: lines of it still wait. They would follow what is read now, and be gone from what is moved.
    """
    errors: asyncio.Future[RolloutError | None] = asyncio.get_running_loop().create_future()
    again = Append(path, shared.clock.timestamp(), (), create=False)
    shared.writer.put((again, 0, lambda _, error: None if errors.done() else errors.set_result(error)))
    limit_s = shared.config.load_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            error = await errors
    except TimeoutError:
        raise RolloutError(path, f"its last writer has not ended within {limit_s:g} s") from None
    if isinstance(error, RolloutUnavailable):
        raise error.refusal()


async def _resumed(shared: Shared, path: Path, first: Callable[[], None] | None = None) -> Resumed:
    def load() -> Replayed:
        if first is not None:
            first()
        return load_rollout(path)

    state = await _load(shared, path, load)
    if state.meta is None:
        raise RolloutError(path, "failed to parse thread ID from rollout file")
    return Resumed(state.meta.id, (), path, state)


async def fork(
    shared: Shared,
    control: AgentControl,
    at: ForkPoint | int | None,
    config: Config | None,
    source: Path | ThreadId,
    spawn: Callable[[Config, InitialHistory], messages.SpawnThread],
) -> NewThread:
    """A new thread with a part of another's lines. Runs in: a task on the manager's loop."""
    parent, path, recorded = await _source(shared, control, source)
    history = await _looked_at(shared, path, recorded, lambda: fork_of(recorded, at))
    if config is None and parent is not None:
        config = parent._actor.config
    elif config is None:
        state = history.state if at is None and isinstance(history, Forked) else None
        if state is None:
            state = await _load(shared, path, partial(load_rollout, path))
        config = recorded_config(state)
    return await control.ask(spawn(config, history))


async def diff(shared: Shared, control: AgentControl, a: Path | ThreadId, b: Path | ThreadId) -> HistoryDiff:
    """Where the histories of two threads part. Runs in: a task on the manager's loop."""
    histories = []
    for source in (a, b):
        _, path, recorded = await _source(shared, control, source)
        state = await _looked_at(shared, path, recorded, partial(_replayed, recorded))
        histories.append(state.history)
    return diff_of(*histories)


async def lineage(shared: Shared, control: AgentControl, source: Path | ThreadId) -> tuple[Ancestor, ...]:
    """A thread and those that it was forked from, the root last. Runs in: a task on the manager's loop."""
    found: list[Ancestor] = []
    next_source: Path | ThreadId | None = source
    while next_source is not None:
        try:
            ancestor, home = await _ancestor(shared, control, next_source)
        except ThreadNotFound:
            if not found or not isinstance(next_source, ThreadId):
                raise
            found.append(Ancestor(next_source, None, None, None))
            break
        found.append(ancestor)
        if ancestor.forked_from_id is None or any(ancestor.forked_from_id == one.thread_id for one in found):
            break
        beside = None if home is None else await shared.load(partial(path_of_thread, home, ancestor.forked_from_id))
        next_source = beside or ancestor.forked_from_id
    return tuple(found)


async def _ancestor(shared: Shared, control: AgentControl, source: Path | ThreadId) -> tuple[Ancestor, Path | None]:
    """One thread of a lineage, and its file, beside which its parent's may be."""
    path = None if isinstance(source, ThreadId) else source
    thread_id = source if isinstance(source, ThreadId) else thread_id_of_path(source)
    thread = None if thread_id is None else await control.ask(messages.FindThread(thread_id, path))
    if thread is not None:
        configured = thread.session_configured
        meta = thread._actor.record.meta
        lines = None if meta is None else meta.forked_from_lines
        return Ancestor(thread.thread_id, thread.rollout_path, configured.forked_from_id, lines), thread.rollout_path
    found = path or await _find(shared, thread_id)
    return await _load(shared, found, partial(ancestor_in, found)), found


async def follow(shared: Shared, source: Path | ThreadId, *, from_start: bool) -> RolloutStream:
    """A stream of a rollout that anybody writes. Runs in: a task on the manager's loop."""
    path = await _find(shared, source) if isinstance(source, ThreadId) else source
    tail = await _load(shared, path, lambda: Tail(path, from_start=from_start))
    return RolloutStream(shared, tail)


async def _source(
    shared: Shared, control: AgentControl, source: Path | ThreadId
) -> tuple[CodexThread | None, Path, Recorded]:
    """The thread, where it lives here; its file; and all that it has recorded."""
    path = None if isinstance(source, ThreadId) else source
    thread_id = source if isinstance(source, ThreadId) else thread_id_of_path(source)
    thread = None if thread_id is None else await control.ask(messages.FindThread(thread_id, path))
    if thread is not None:
        reply: Reply[Recorded] = Reply(shared.pump, shared.config.ask_timeout_s)
        thread._actor.actor_inbox.put(Letter(messages.GiveHistory(), reply))
        return thread, thread.rollout_path or Path(thread.thread_id), await reply
    found = path or await _find(shared, thread_id)
    await settled(shared, found)
    return None, found, Recorded(await _load(shared, found, partial(readable_segments, found)), ())


async def _find(shared: Shared, thread_id: ThreadId | None) -> Path:
    home = shared.codex_home
    path: Path | None = None
    if home is not None and thread_id is not None:
        path = await shared.load(lambda: rollout_path_of(home, thread_id))
    if path is None:
        raise ThreadNotFound(thread_id or "")
    return path


async def _load(shared: Shared, path: Path, read: Callable[[], T]) -> T:
    limit_s = shared.config.load_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            return await shared.load(read)
    except TimeoutError:
        raise RolloutError(path, f"not read within {limit_s:g} s") from None


async def _looked_at(shared: Shared, path: Path, recorded: Recorded, look: Callable[[], T]) -> T:
    """What is short and in memory needs no OS thread, whose pace no seed could replay."""
    size_bytes = sum(len(line) for line in recorded.lines if isinstance(line, bytes))
    if recorded.segments or len(recorded.lines) > LINES_AT_ONCE or size_bytes > BYTES_AT_ONCE:
        return await _load(shared, path, look)
    return look()


def _replayed(recorded: Recorded) -> Replayed:
    return replayed_lines(lines_of(recorded))


def recorded_config(state: Replayed) -> Config:
    """The settings that a rollout has recorded; tools are code and are not among them."""
    context, meta = state.context, state.meta
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
