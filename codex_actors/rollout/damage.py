"""What is damaged in a rollout, and how a sound one is made of it.

The law of this file: a line whose crc is right is what was written; without a crc it is sound if it is a JSON object with a
`type`. What is damaged is never thrown away: it stands in `<file>.torn`, each piece with its place.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic_core import from_json

from codex_actors.errors import RolloutError
from codex_actors.rollout.encode import LINE_START, crc_holds
from codex_actors.rollout.files import NEW, Files, fsync_folder, write_all
from codex_actors.rollout.resumable import Resumable

NO_LINE = "no line of a rollout"
"""What is wrong with JSON that is no object with a `type`."""

_MARK = re.compile(re.escape(LINE_START))

_MARKS = 8
"""In a damaged line with more beginnings of lines than this, each is looked for only up to the next."""

_PIECE_BYTES = 1 << 20
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of bytes that is no sound line: `start` to `end` (exclusive), in line `line` (from 1); `what` says why.

    Neighbours make one range, as do the parts of a line that was joined or split. An empty one lacks only a newline.
    """

    start: int
    end: int
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the bytes of `path`.

    Attributes:
        path: The file.
        size_bytes: Its size.
        lines: Its sound lines, but for blank ones.
        checked: Those of them whose crc is right; the others have none.
        damages: What is not sound, in the order of the file.
        problems: What would keep Codex from resuming it, in sentences.
        notes: What is unusual, and keeps nobody from anything.
        is_applied: Whether the damage was taken out (`salvage`).
    """

    path: Path
    size_bytes: int
    lines: int
    checked: int
    damages: tuple[Damage, ...]
    is_applied: bool = False
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every byte is as it was written, as far as can be told."""
        return not self.damages

    @property
    def is_resumable(self) -> bool:
        """Whether nothing was found that would keep Codex from resuming it; damaged lines do not."""
        return not self.problems


class Piece(NamedTuple):
    """Bytes of a file, from `start` on: a sound line (`what` is ""), a blank one (it has no bytes but blanks), or damage."""

    start: int
    line: int
    data: bytes
    what: str


def verify(path: Path | str) -> Report:
    """Look at every byte of a rollout. Nothing is written; memory is bounded by the longest line.

    Raises:
        RolloutError: it cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            resumable = Resumable(path)
            report = report_of(path, _shown(pieces(file), resumable))
            resumable.end()
            return replace(report, problems=tuple(resumable.problems), notes=tuple(resumable.notes))
    except (OSError, ValueError) as error:
        raise RolloutError(path, f"cannot read the rollout ({getattr(error, 'strerror', None) or error})") from error


def salvage(path: Path | str, *, apply: bool = False) -> Report:
    """Take the damage out of a rollout; without `apply`, only say what that would be.

    The sound lines are copied byte by byte, the copy takes the file's place at once, and the damage is added to
    `<file>.torn`. A file that is sound is not touched. No other program may write to the file meanwhile.

    Raises:
        RolloutError: it cannot be read or written, or somebody else wrote to it meanwhile; it is as it was.
    """
    path = Path(os.path.realpath(path))
    report = verify(path)
    if report.is_sound or not apply:
        return report
    if not report.lines:
        raise RolloutError(path, "cannot salvage the rollout (no line of it is sound)")
    copy_path = path.with_name(path.name + ".salvaged")
    files = Files()
    try:
        _salvage(path, copy_path, files)
    except OSError as error:
        raise RolloutError(path, f"cannot salvage the rollout ({error.strerror or error})") from error
    return replace(report, is_applied=True)


def torn_path(path: Path) -> Path:
    """Where the damage of a rollout is set aside: lines `{"start","end","what","bytes"}`."""
    return path.with_name(path.name + ".torn")


def set_aside(path: Path, damages: Iterable[Piece], files: Files, *, sync: bool) -> None:
    """Add damage of the rollout `path` to its `.torn`, where bytes that are no UTF-8 stand as `\\udcXX`.

    Raises:
        OSError: it is as it was.
    """
    records = [
        {
            "start": piece.start,
            "end": piece.start + len(piece.data),
            "what": piece.what,
            "bytes": piece.data.decode("utf-8", "surrogateescape"),
        }
        for piece in damages
    ]
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    fd = files.open(torn_path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        try:
            write_all(files, fd, data)
            if sync:
                files.fsync(fd)
        except OSError:
            files.ftruncate(fd, size)
            raise
    finally:
        files.close(fd)
    if sync:
        fsync_folder(files, path.parent)


def pieces(lines: Iterable[bytes]) -> Iterator[Piece]:
    """All bytes of a file, in order, of its lines with their newlines. Neighbouring pieces may both be damage."""
    start = 0
    for number, line in enumerate(lines, start=1):
        what = "" if line.isspace() else fault(line)
        if what:
            yield from _rescued(start, number, line, what)
        else:
            yield Piece(start, number, line, "")
        start += len(line)


def fault(line: bytes) -> str:
    """Why `line` is not sound; "" where it is."""
    holds = crc_holds(line)
    if holds:
        return ""
    if holds is not None and line.rstrip(b"\n").endswith(b"}"):
        return "its crc does not match"
    try:
        value = from_json(line)
    except ValueError:
        return "no JSON"
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return NO_LINE
    return "" if holds is None else "its crc does not match"


def is_torn(line: bytes) -> bool:
    """Whether the last line of a file is one that its next writer sets aside: no JSON, with nothing sound in it."""
    return bool(line.strip()) and fault(line) == "no JSON" and all(piece.what for piece in pieces([line]))


def last_line(fd: int, size: int) -> tuple[int, bytes]:
    """Where the last line begins, and its bytes."""
    length = min(_TAIL_BYTES, size)
    tail = os.pread(fd, length, size - length)
    while length < size and tail.rfind(b"\n", 0, -1) < 0:
        length = min(4 * length, size)
        tail = os.pread(fd, length, size - length)
    begin = tail.rfind(b"\n", 0, -1) + 1
    return size - length + begin, tail[begin:]


def _rescued(start: int, number: int, line: bytes, what: str) -> Iterator[Piece]:
    """The sound lines in a damaged one, which lost their newlines or have others' bytes around them; and the rest."""
    marks = [match.start() for match in _MARK.finditer(line)]
    bounds = [*marks, len(line)]
    done = index = 0
    while index < len(marks):
        begin = marks[index]
        last = len(marks) if len(marks) <= _MARKS else index + 1
        for upto in range(last, index, -1):
            end = _end_of_line(line, begin, bounds[upto])
            if end:
                if begin > done:
                    yield Piece(start + done, number, line[done:begin], what)
                end += line[end:] == b"\n"
                yield Piece(start + begin, number, line[begin:end], "")
                done, index = end, upto - 1
                break
        index += 1
    if done < len(line):
        yield Piece(start + done, number, line[done:], what)


def _end_of_line(line: bytes, begin: int, limit: int) -> int:
    """Where the sound line ends that begins at `begin` and ends before `limit`; 0 where there is none."""
    end = limit
    for is_last in (True, False):  # the last byte may be a brace by damage: only a crc tells
        end = line.rfind(b"}", begin, end)
        if end < 0:
            return 0
        found = line[begin : end + 1]
        if not fault(found) and (crc_holds(found) or (is_last and b'"payload":' in found)):
            return end + 1
    return 0


def _shown(found: Iterable[Piece], resumable: Resumable) -> Iterator[Piece]:
    for piece in found:
        if not piece.what and not piece.data.isspace():
            resumable.take(piece.line, piece.data)
        yield piece


def report_of(path: Path, found: Iterable[Piece]) -> Report:
    """What the pieces of a whole file come to."""
    damages: list[Damage] = []
    size = lines = checked = 0
    blank: Piece | None = None
    newline = True
    for piece in found:
        end = piece.start + len(piece.data)
        newline = piece.data.endswith(b"\n")
        size = end
        if piece.what:
            begin = piece if blank is None else blank
            if damages and damages[-1].end == begin.start:
                damages[-1] = replace(damages[-1], end=end)
            else:
                damages.append(Damage(begin.start, end, begin.line, piece.what))
            blank = None
        elif piece.data.isspace():
            if damages and damages[-1].end == piece.start:
                damages[-1] = replace(damages[-1], end=end)
            else:
                blank = piece if blank is None else blank
        else:
            blank = None
            lines += 1
            checked += crc_holds(piece.data) is True
    if size and not newline and not (damages and damages[-1].end == size):
        damages.append(Damage(size, size, lines, "no newline at the end"))
    if not lines and not damages:
        damages.append(Damage(0, size, 0, "no line at all"))
    return Report(path, size, lines, checked, tuple(damages))


def _salvage(path: Path, copy_path: Path, files: Files) -> None:
    before = os.stat(path)
    with suppress(FileNotFoundError):
        os.unlink(copy_path)
    fd = files.open(copy_path, NEW)
    try:
        damaged: list[Piece] = []
        with path.open("rb") as file:
            _copy(pieces(file), fd, damaged, files)
        os.fchmod(fd, stat.S_IMODE(before.st_mode))
        files.fsync(fd)
        after = os.stat(path)
        if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
            raise RolloutError(path, "somebody else wrote to the rollout while it was salvaged")
        if damaged:
            set_aside(path, damaged, files, sync=True)
        os.replace(copy_path, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(copy_path)
        raise
    finally:
        files.close(fd)
    fsync_folder(files, path.parent)


def _copy(found: Iterable[Piece], fd: int, damaged: list[Piece], files: Files) -> None:
    """Write the sound lines, each with a newline, and gather the damage."""
    block: list[bytes] = []
    size = 0
    for piece in found:
        if piece.what:
            damaged.append(piece)
        elif not piece.data.isspace():
            block.append(piece.data if piece.data.endswith(b"\n") else piece.data + b"\n")
            size += len(piece.data)
        if size > _PIECE_BYTES:
            write_all(files, fd, b"".join(block))
            block, size = [], 0
    if block:
        write_all(files, fd, b"".join(block))
