"""Which bytes of a rollout are sound lines, and which are none.

The law of this file: a line whose crc is right is what was written; without a crc it is sound if it is a JSON object with a
`type`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic_core import from_json

from codex_actors.rollout.encode import LINE_START, crc_holds

NO_LINE = "no line of a rollout"
"""What is wrong with JSON that is no object with a `type`."""

_MARK = re.compile(re.escape(LINE_START))

_MARKS = 8
"""In a damaged line with more beginnings of lines than this, each is looked for only up to the next."""

_TAIL_BYTES = 4096


class Piece(NamedTuple):
    """Bytes of a file, from `start` on: a sound line (`what` is ""), a blank one (it has no bytes but blanks), or damage."""

    start: int
    line: int
    data: bytes
    what: str


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
