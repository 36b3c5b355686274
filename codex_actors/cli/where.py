"""Which thread a command line means."""

from __future__ import annotations

from pathlib import Path

from codex_actors import KeptThread, ThreadId
from codex_actors.cli.options import Refused
from codex_actors.errors import RolloutError
from codex_actors.rollout.listing import (
    ARCHIVED,
    Found,
    chosen,
    current_files,
    find_thread,
    scan,
    summary_or_none,
    thread_of,
)
from codex_actors.rollout.names import read_names
from codex_actors.rollout.reader import rollout_path_of
from codex_actors.rollout.summary import name_parts, read_summary


def path_to_go_on(home: Path, thread: str) -> Path:
    """The file of a thread that is to be resumed or forked: named by an id, the begin of one, a name, or its path.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several.
        Refused: it is archived.
    """
    if _is_path(thread):
        return Path(thread).expanduser()
    try:
        path = rollout_path_of(home, ThreadId(thread))
    except ValueError:
        path = None
    if path is not None:
        return path
    found = find_thread(home, thread)
    if found.is_archived:
        raise Refused(f"thread {found.id} is archived; codex-actors unarchive {found.id}")
    return found.path


def kept_thread(home: Path, thread: str) -> KeptThread:
    """The thread that is named by an id, the begin of one, a name, or the path of its file.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several.
        RolloutError: the file cannot be read, or says nothing of a thread.
    """
    if not _is_path(thread):
        return find_thread(home, thread)
    path = Path(thread).expanduser().absolute()
    try:
        stamp, summary = read_summary(path)
    except OSError as error:
        raise RolloutError(path, f"cannot read the rollout ({error.strerror})") from error
    if summary is None:
        raise RolloutError(path, "the rollout has no meta near its beginning")
    began, thread_id = name_parts(path.name) or ("", summary.meta_id)
    file = Found(path, thread_id, began, stamp, is_archived=path.parent.name == ARCHIVED)
    return thread_of(file, summary, read_names(home).get(thread_id))


def path_of(home: Path, thread: str) -> Path:
    """The file of a thread, however damaged: named by an id, the begin of one, a name, or its path.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several.
        RolloutError: a folder or the names cannot be read.
    """
    if _is_path(thread):
        return Path(thread).expanduser().absolute()
    return chosen(thread, current_files(scan(home, archived=None), summary_or_none), read_names(home)).path


def _is_path(text: str) -> bool:
    return "/" in text or text.endswith(".jsonl") or Path(text).expanduser().is_file()
