"""The threads that are kept in the manager's home, living or not: listed, found, named, and put away.

Runs in: a task on the manager's loop, each of these; files are read and moved in OS threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from codex_actors.actors import messages
from codex_actors.actors.control import AgentControl
from codex_actors.actors.loading import released
from codex_actors.actors.shared import Shared
from codex_actors.errors import ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.archive import archive_thread, unarchive_thread
from codex_actors.rollout.index import Index
from codex_actors.rollout.listing import ThreadPage, ThreadQuery
from codex_actors.rollout.names import append_name
from codex_actors.rollout.summary import KeptThread

T = TypeVar("T")


async def list_kept(shared: Shared, query: ThreadQuery) -> ThreadPage:
    """A page of the threads of the home; without one there are none."""
    if shared.codex_home is None:
        return ThreadPage((), None)
    return await _ask_index(shared, lambda index, touched: index.list_threads(query, touched))


async def find_kept(shared: Shared, which: str) -> KeptThread:
    """The thread with this id, name, or unique begin of its id.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several; it names them.
    """
    if shared.codex_home is None:
        raise ThreadNotFound(which)
    return await _ask_index(shared, lambda index, _: index.find_thread(which))


async def archive_kept(shared: Shared, control: AgentControl, which: str) -> Path:
    """Archive a thread that does not live here; its new path.

    Raises:
        UnsupportedOperation: it lives, is just being resumed, or there is no home.
        WriterConflict: another manager, or a Codex, writes it.
    """
    return await _move(shared, control, which, archive_thread)


async def unarchive_kept(shared: Shared, control: AgentControl, which: str) -> Path:
    """Take a thread out of the archive; its new path.

    Raises:
        UnsupportedOperation: it lives, is just being resumed, or there is no home.
        WriterConflict: another manager, or a Codex, writes it.
    """
    return await _move(shared, control, which, unarchive_thread)


async def name_kept(shared: Shared, control: AgentControl, which: str, name: str) -> None:
    """Name a thread that is kept, or lives here and will be.

    Raises:
        InvalidRequest: that is no name.
        ThreadNotFound: there is no such thread.
    """
    home = _home(shared)
    thread_id = await _living_id(control, which) or (await find_kept(shared, which)).id
    timestamp = shared.clock.timestamp()
    await shared.load(lambda: append_name(home, thread_id, name, timestamp))


async def _move(shared: Shared, control: AgentControl, which: str, move: Callable[[Path, str], Path]) -> Path:
    home, claims = _home(shared), shared.claims
    living_id = await _living_id(control, which)
    if living_id is not None:
        raise _living(living_id)
    kept = await find_kept(shared, which)
    thread_id, path = ThreadId(kept.id), kept.path
    if thread_id in shared.loading or thread_id in shared.moving:
        raise UnsupportedOperation(f"thread {thread_id} is just being resumed or moved; try again behind that")
    # Who resumes it meanwhile is refused: the file would be gone when the first line comes.
    shared.moving.add(thread_id)
    try:
        if await control.ask(messages.FindThread(thread_id, None)) is not None:
            raise _living(thread_id)
        if claims is None:
            return await shared.load(lambda: move(home, thread_id))
        await released(shared, path)
        await shared.load(lambda: claims.claim(path, thread_id))
        try:
            return await shared.load(lambda: move(home, thread_id))
        finally:
            await asyncio.shield(shared.load(lambda: claims.release(path)))
    finally:
        shared.moving.discard(thread_id)


def _living(thread_id: ThreadId) -> UnsupportedOperation:
    return UnsupportedOperation(f"thread {thread_id} lives here; remove it, and let go of it, before it is moved")


async def _living_id(control: AgentControl, which: str) -> ThreadId | None:
    """The id where `which` is that of a thread that lives here: its file may not be there yet."""
    try:
        thread_id = ThreadId(which)
    except ValueError:
        return None
    thread = await control.ask(messages.FindThread(thread_id, None))
    return None if thread is None else thread_id


async def _ask_index(shared: Shared, ask: Callable[[Index, tuple[Path, ...]], T]) -> T:
    async with shared.index_turn:
        if shared.index is None:
            shared.index = Index(_home(shared), writes=True)
        index, touched = shared.index, tuple(shared.touched)
        shared.touched.clear()
        return await shared.load(lambda: ask(index, touched))


def _home(shared: Shared) -> Path:
    if shared.codex_home is None:
        raise UnsupportedOperation("this manager keeps nothing on disk; give it a codex_home")
    return shared.codex_home
