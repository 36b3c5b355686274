"""The names that users give to threads: `<home>/session_index.jsonl`, which is only appended to; the newest line wins.

Source: `codex-rs/core/src/rollout/session_index.rs`.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic_core import from_json, to_json

from codex_actors.errors import InvalidRequest, RolloutError


def names_path(codex_home: Path) -> Path:
    """Where the names stand."""
    return codex_home / "session_index.jsonl"


def read_names(codex_home: Path) -> dict[str, str]:
    """The name of each thread that has one, by its id. A line that is none is skipped; without a file there are none.

    Raises:
        RolloutError: the file cannot be read.
    """
    path = names_path(codex_home)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RolloutError(path, f"cannot read the names of threads ({error.strerror})") from error
    names: dict[str, str] = {}
    for line in data.split(b"\n"):
        try:
            value = from_json(line)
        except ValueError:
            continue
        match value:
            case {"id": str(thread_id), "thread_name": str(name)}:
                names[thread_id.lower()] = name.strip()
    return {thread_id: name for thread_id, name in names.items() if name}


def append_name(codex_home: Path, thread_id: str, name: str, timestamp: str) -> None:
    """Name a thread. `timestamp` is as rollout lines have it.

    Raises:
        InvalidRequest: the name is empty, or more than one line.
        RolloutError: the file cannot be written.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidRequest(f"name: {name!r} is no name; give a text")
    if len(name.splitlines()) > 1:
        raise InvalidRequest(f"name: {name!r} is more than one line")
    path = names_path(codex_home)
    line = to_json({"id": thread_id, "thread_name": name.strip(), "updated_at": timestamp}) + b"\n"
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            # One write: another process may append at the same moment.
            os.write(fd, b"\n" + line if is_torn else line)
        finally:
            os.close(fd)
    except OSError as error:
        raise RolloutError(path, f"cannot write the name of a thread ({error.strerror})") from error
