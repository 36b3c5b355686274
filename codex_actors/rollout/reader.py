"""Reading rollout files, and finding them.

The law of this file: what is broken in a line costs that line only, and is logged; a line is never read as another one.
Source: `codex-rs/core/src/rollout/recorder.rs`, `get_rollout_history`; `rollout/list.rs`, `find_thread_path_by_id_str`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import (
    CompactedLine,
    EventMsgLine,
    InitialHistory,
    InputAcceptedLine,
    ResponseItemLine,
    Resumed,
    RolloutItem,
    SessionMetaLine,
    TurnContextLine,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import Verbatim
from codex_actors.protocol.wire import keep_order
from codex_actors.rollout.encode import crc_holds
from codex_actors.rollout.pieces import pieces
from codex_actors.rollout.replay import session_meta

_LOGGER = logging.getLogger("codex_actors")

_LINES: dict[str, type[Any]] = {
    "session_meta": SessionMetaLine,
    "response_item": ResponseItemLine,
    "compacted": CompactedLine,
    "turn_context": TurnContextLine,
    "event_msg": EventMsgLine,
    "codex_actors": InputAcceptedLine,
}
"""The members of `RolloutItem`, by wire tag. Twice as fast as `ROLLOUT_ITEM.validate_json`, which turns every nested
union into Python objects once more to look at its tag."""

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

_FILE_NAME = re.compile(rf"rollout-\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\d-({_UUID})(?:_{_UUID})?\.jsonl")
"""The second id is that of a segment: what a revert of Codex 0.169 begins."""

_NAMED_LINES = 20
"""How many line numbers a warning lists before it only counts."""


def get_rollout_history(path: Path | str) -> InitialHistory:
    """The recorded lines of `path`, as `Resumed` under the id of the first meta; never `Forked`.

    Blank lines, lines that are not a JSON object with a `type` and a torn last line are skipped, with one warning for
    the file. A line of a type that is not known, or of a known type with a payload that does not fit, is kept as
    `Verbatim`. Lines of every `history_mode` are read: what may be done with them is the caller's affair.

    Raises:
        RolloutError: the file is missing, a folder, not readable, empty, not text, or has no meta with a thread id.
    """
    path = Path(path)
    data = _read_bytes(path)
    if not data or data.isspace():
        raise RolloutError(path, "empty session file")
    items, skipped = _parse_lines(data)
    if not items and not _is_text(data):
        raise RolloutError(path, "not a rollout file (its bytes are not UTF-8 text)")
    if skipped:
        warn_of_skipped_lines(path, skipped)
    meta = session_meta(items)
    if meta is None:
        raise RolloutError(path, "failed to parse thread ID from rollout file")
    return Resumed(conversation_id=meta.id, history=tuple(items), rollout_path=path)


def items_of(bodies: Iterable[bytes]) -> list[RolloutItem]:
    """The lines that `writer.encode_body` has made these of, without a timestamp."""
    return _parse_lines(b"".join([b"{" + body[2:] for body in bodies]))[0]


def parse(lines: bytes) -> list[RolloutItem]:
    """Whole lines, each as `get_rollout_history` reads it."""
    return _parse_lines(lines)[0]


def rollout_path_of(codex_home: Path | str, thread_id: ThreadId | str) -> Path | None:
    """The newest rollout of `thread_id` under `<codex_home>/sessions`, by its name, or None.

    Raises:
        RolloutError: a folder there cannot be read.
    """
    try:
        thread_id = ThreadId(thread_id)
    except ValueError:
        return None
    return next(_named(Path(codex_home), thread_id), None)


def rollout_paths_of(codex_home: Path | str, thread_id: ThreadId) -> list[Path]:
    """All rollouts of `thread_id`, by their names, newest first; those that are archived come last.

    Raises:
        RolloutError: a folder cannot be read.
    """
    home = Path(codex_home)
    archived = _newest_first(home / "archived_sessions", thread_id)
    return [*_named(home, thread_id), *(path for path in archived if thread_id_of_path(path) == thread_id)]


def _named(home: Path, thread_id: ThreadId) -> Iterator[Path]:
    for year in _newest_first(home / "sessions"):
        for month in _newest_first(year):
            for day in _newest_first(month):
                for path in _newest_first(day, thread_id):
                    if thread_id_of_path(path) == thread_id and path.is_file():
                        yield path


def thread_id_of_path(path: Path | str) -> ThreadId | None:
    """The thread id in the name of a rollout file, or None where the name is not that of one."""
    match = _FILE_NAME.fullmatch(Path(path).name)
    return ThreadId(match[1]) if match else None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RolloutError(path, "no such rollout file") from error
    except IsADirectoryError as error:
        raise RolloutError(path, "a folder, not a rollout file") from error
    except (OSError, ValueError) as error:
        # ValueError: a NUL byte in the path.
        raise RolloutError(path, f"cannot read the rollout ({getattr(error, 'strerror', None) or error})") from error


def _parse_lines(data: bytes) -> tuple[list[RolloutItem], list[int]]:
    """The lines of `data`, and the numbers (from 1) of those that were skipped; blank ones are no loss."""
    items: list[RolloutItem] = []
    skipped: list[int] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        item = _parsed(line)
        if item is not None:
            items.append(item)
        elif line.strip():
            found = list(pieces([line]))
            if any(piece.what for piece in found):
                skipped.append(number)
            items += [each for piece in found if not piece.what and (each := _parsed(piece.data)) is not None]
    return items, skipped


def _parsed(line: bytes) -> RolloutItem | None:
    """The line, or None where it is damaged, or none of a rollout."""
    try:
        value = from_json(line)
    except ValueError:
        return None
    tag = value.get("type") if isinstance(value, dict) else None
    if not isinstance(tag, str) or crc_holds(line) is False:
        return None
    value.pop("crc", None)  # of the bytes that were read, not of the item
    kind = _LINES.get(tag)
    try:
        item: Any = Verbatim(raw=value) if kind is None else kind.__pydantic_validator__.validate_python(value)
        keep_order(item, value)
        return item  # type: ignore[no-any-return]
    except (ValidationError, TypeError):  # TypeError: a nested `type` that is no string
        return Verbatim(raw=value)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def warn_of_skipped_lines(path: Path, numbers: list[int]) -> None:
    """Log once that the lines with these numbers (from 1) were lost."""
    named = ", ".join(map(str, numbers[:_NAMED_LINES]))
    more = f" and {len(numbers) - _NAMED_LINES} more" if len(numbers) > _NAMED_LINES else ""
    _LOGGER.warning("rollout %s: skipped %d broken line(s): %s%s", path, len(numbers), named, more)


def _newest_first(folder: Path, part: str = "") -> list[Path]:
    """What in `folder` has `part` in its name, by descending name (dates sort as text); nothing without a folder."""
    try:
        names = [name for name in os.listdir(folder) if part in name]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RolloutError(folder, f"cannot look for rollouts ({error.strerror})") from error
    return [folder / name for name in sorted(names, reverse=True)]
