"""What is damaged in a rollout, and how a sound one is made of it.

The law of this file: what is damaged is never thrown away: it stands in `<file>.torn`, each piece with its place.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from codex_actors.errors import RolloutError
from codex_actors.rollout.encode import crc_holds
from codex_actors.rollout.files import NEW, Files, fsync_folder, write_all
from codex_actors.rollout.pieces import Piece, pieces
from codex_actors.rollout.resumable import Resumable

_PIECE_BYTES = 1 << 20


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
