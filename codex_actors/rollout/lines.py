"""The lines of rollout files as bytes: read in blocks, and looked at without being parsed.

The law of this file: what a line is, its first bytes say where Codex or this runtime wrote it; any other form is parsed. Of a
damaged line come the sound ones that are in it, and `DAMAGED` for the rest.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import BytesIO
from itertools import accumulate, chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from pydantic_core import from_json

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import Segment
from codex_actors.rollout.encode import LINE_START, crc_holds
from codex_actors.rollout.pieces import NO_LINE, fault, is_torn, last_line, pieces

BLOCK_BYTES = 1 << 17

DAMAGED = b"?"
"""What is read for bytes that are no sound line, where they could be taken for one."""

_WINDOW_BYTES = 1 << 18

_NEXT_LINE = b"}}\n" + LINE_START
_CRC = b',"crc":'

_without_newline = itemgetter(slice(-1))

QUICK_HEAD = re.compile(
    rb'\{"timestamp":"[^"]{23}Z",(?:"ordinal":\d++,)?+"type":"([a-z_]++","payload":\{(?:"type":"[A-Za-z_]++")?+)'
)
"""The form of nearly every line; its one group says what a `Head` does, once for each kind of line."""

_HEAD = re.compile(
    rb'\{"timestamp":"[^"\\]*",(?:"ordinal":\d+,)?"type":"([a-z_]+)","payload":\{(?:"type":"([A-Za-z_]+)"[,}])?'
)

_ORDINAL = re.compile(rb'\{"timestamp":"[^"\\]*","ordinal":(\d+),')


class Head(NamedTuple):
    """What a line is: its `type`, and the `type` of its payload (or None)."""

    type: bytes
    payload_type: bytes | None


def head_of(line: bytes) -> Head | None:
    """What `line` is, or None where it is no JSON object with a `type`; in the known form the rest is not looked at."""
    match = _HEAD.match(line)
    if match is not None:
        return Head(*match.groups())
    value = value_of(line)
    kind = None if value is None else value.get("type")
    if value is None or not isinstance(kind, str):
        return None
    payload = value.get("payload")
    tag = payload.get("type") if isinstance(payload, dict) else None
    return Head(kind.encode(), tag.encode() if isinstance(tag, str) else None)


def ordinal_of(line: bytes) -> int | None:
    """The `ordinal` of a line, or None where it has none."""
    match = _ORDINAL.match(line)
    if match is not None:
        return int(match[1])
    value = None if b'"ordinal"' not in line else value_of(line)
    ordinal = None if value is None else value.get("ordinal")
    return ordinal if type(ordinal) is int else None


def value_of(line: bytes) -> dict[str, Any] | None:
    """The object that `line` is, or None."""
    try:
        value = from_json(line, cache_strings="keys")  # texts are all different: a third of the time
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def file_lines(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines between two offsets, each with the offset of its first byte and without its newline; the last may be torn."""
    return chain.from_iterable(_numbered(offset, lines) for offset, _, lines in _blocks(fd, start, end))


def _blocks(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """The same in pieces: the offset of the first line, the bytes (and the beginning of what follows), the lines with
    their newlines."""
    parts: list[bytes] = []
    position, offset = start, start
    while position < end:
        block = os.pread(fd, min(BLOCK_BYTES, end - position), position)
        if not block:
            break
        position += len(block)
        parts.append(block)
        if b"\n" not in block:
            continue
        data = b"".join(parts)
        lines = BytesIO(data).readlines()  # three times as fast as `split`
        parts = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        yield offset, data, lines
        offset = position - sum(map(len, parts))
    torn = b"".join(parts)
    if torn:
        yield offset, torn, [torn + b"\n"]


def _numbered(address: int, lines: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines with their addresses. None costs a step of Python."""
    return zip(accumulate(map(len, lines), initial=address), map(_without_newline, lines), strict=False)


def _are_sound(data: bytes, lines: list[bytes]) -> bool:
    """Whether all lines of a block look as they were written, by Codex (three searches) or here (their crc)."""
    ends, number = data.count(_NEXT_LINE), len(lines)
    is_plain = data.startswith(LINE_START) and (ends == number or (ends == number - 1 and lines[-1].endswith(b"}}\n")))
    # With a crc a line ends otherwise: one that ends so all the same has got a brace.
    is_plain = is_plain and data.count(LINE_START) == ends + 1 and _CRC not in data
    return is_plain or all(map(_is_sound, lines))


def _is_sound(line: bytes) -> bool:
    holds = crc_holds(line)
    if holds is not None:
        return holds
    return line.startswith(LINE_START) and line.endswith((b"}\n", b"}")) and line.find(LINE_START, 1) < 0


class LineSource(Protocol):
    """Lines in order, each with an address by which it can be had again."""

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every line from an address on, without its newline."""
        ...

    def lines_before(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Every line in front of an address, the last first."""
        ...

    def line(self, address: int) -> bytes:
        """The line at an address."""
        ...


class MemoryLines:
    """Lines that are in memory; an address is an index."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every line from an address on, without its newline."""
        return enumerate(self._lines[start:], start)

    def lines_before(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Every line in front of an address, the last first."""
        return ((index, self._lines[index]) for index in range(address - 1, -1, -1))

    def line(self, address: int) -> bytes:
        """The line at an address."""
        return self._lines[address]


class FileLines:
    """Lines of files that follow each other; open within its `with`. An address counts the bytes before it in all files.

    Raises:
        RolloutError: a file cannot be opened or read.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._files = ExitStack()
        self._fds: list[int] = []
        self._starts: list[int] = []
        self._window = (0, b"")
        self._rescued: dict[int, bytes] = {}
        self.is_mended = False
        """Whether a damaged line was met."""
        self.size = sum(segment.end for segment in segments)

    def __enter__(self) -> Self:
        start = 0
        try:
            for segment in self._segments:
                fd = open_file(segment.path)
                self._files.callback(os.close, fd)
                self._fds.append(fd)
                self._starts.append(start)
                start += segment.end
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def start_of(self, number: int) -> int:
        """The address of the first line of one of the files."""
        return self._starts[number]

    def whole_segments(self) -> tuple[Segment, ...]:
        """The files without a torn last line: its place is that of the next line written."""
        last = self._segments[-1]
        try:
            start, line = last_line(self._fds[-1], last.end)
        except OSError as error:
            raise _unreadable(last.path, error) from error
        return (*self._segments[:-1], Segment(last.path, start)) if is_torn(line) else tuple(self._segments)

    def lines(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every line from an address on, without its newline."""
        return chain.from_iterable(self._blocks(start))

    def _blocks(self, start: int) -> Iterator[Iterable[tuple[int, bytes]]]:
        for first, fd, segment in zip(self._starts, self._fds, self._segments, strict=True):
            if start >= first + segment.end:
                continue
            try:
                for offset, data, lines in _blocks(fd, max(0, start - first), segment.end):
                    numbered = _numbered(first + offset, lines)
                    yield numbered if _are_sound(data, lines) else self._mended(numbered)
            except OSError as error:
                raise _unreadable(segment.path, error) from error

    def _mended(self, numbered: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        """The lines, and of damaged ones what is sound in them."""
        for address, line in numbered:
            if _is_sound(line) or not line.strip() or fault(line) in ("", NO_LINE):
                yield address, line
                continue
            self.is_mended = True
            for piece in pieces([line]):
                if piece.what:
                    yield address + piece.start, _stand_in(piece.data)
                else:
                    self._rescued[address + piece.start] = piece.data
                    yield address + piece.start, piece.data

    def first_bytes(self, count: int) -> bytes:
        """What the first file begins with; fewer where the system does not read as many at once."""
        try:
            return os.pread(self._fds[0], count, 0)
        except OSError as error:
            raise _unreadable(self._segments[0].path, error) from error

    def lines_before(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Every line in front of an address, the last first."""
        for data, start in self.blocks_before(address):
            end = len(data) - data.endswith(b"\n")
            while end >= 0 and data:
                begin = data.rfind(b"\n", 0, end) + 1
                yield from reversed(list(self._mended([(start + begin, data[begin:end])])))
                end = begin - 1

    def blocks_before(self, address: int) -> Iterator[tuple[bytes, int]]:
        """What stands in front of an address, in pieces of whole lines, the last first; each with its own address."""
        for first, fd, segment in reversed(list(zip(self._starts, self._fds, self._segments, strict=True))):
            end = min(address - first, segment.end)
            length = BLOCK_BYTES
            while end > 0:
                begin = max(0, end - length)
                try:
                    data = os.pread(fd, end - begin, begin)
                except OSError as error:
                    raise _unreadable(segment.path, error) from error
                cut = data.find(b"\n") + 1 if begin > 0 else 0
                if begin > 0 and not 0 < cut < len(data):
                    length *= 2  # a line longer than the block
                    continue
                yield data[cut:], first + begin + cut
                end, length = begin + cut, BLOCK_BYTES

    def line(self, address: int) -> bytes:
        """The line at an address."""
        if self._rescued and (line := self._rescued.get(address)) is not None:
            return line
        start, data = self._window
        begin = address - start
        end = data.find(b"\n", begin) if begin >= 0 else -1
        if end < 0:
            start, data = self._window = self._read_window(address, is_backward=begin < 0)
            begin = address - start
            end = data.find(b"\n", begin)
        return data[begin : end if end >= 0 else len(data)]

    def numbers_of(self, addresses: Iterable[int]) -> list[int]:
        """Which lines of their files these are, from 1, each once."""
        numbers: list[int] = []
        place = begin = 0
        found = 1
        for address in sorted(addresses):
            at = bisect_right(self._starts, address) - 1
            if at != place:
                place, begin, found = at, 0, 1
            end = address - self._starts[at]
            try:
                while begin < end:
                    block = os.pread(self._fds[at], min(BLOCK_BYTES, end - begin), begin)
                    found += block.count(b"\n")
                    begin += len(block) or end
            except OSError as error:
                raise _unreadable(self._segments[at].path, error) from error
            if numbers[-1:] != [found]:
                numbers.append(found)
        return numbers

    def _read_window(self, address: int, *, is_backward: bool) -> tuple[int, bytes]:
        """The bytes around a line, so that its neighbours need no other read."""
        number = bisect_right(self._starts, address) - 1
        fd, first, segment = self._fds[number], self._starts[number], self._segments[number]
        begin = max(0, address - first - (_WINDOW_BYTES if is_backward else 0))
        length = address - first - begin + _WINDOW_BYTES
        try:
            data = os.pread(fd, min(length, segment.end - begin), begin)
            while data.find(b"\n", address - first - begin) < 0 and begin + len(data) < segment.end:
                length *= 2
                data = os.pread(fd, min(length, segment.end - begin), begin)
        except OSError as error:
            raise _unreadable(segment.path, error) from error
        return first + begin, data


def _stand_in(data: bytes) -> bytes:
    """What is read for bytes that are no sound line. An `ordinal` is left of JSON, which another program reads as a line:
    the number is taken. A torn line is set aside, and its number is free."""
    ordinal = ordinal_of(data)
    if ordinal is not None and value_of(data) is not None:
        return b'{"ordinal":%d}' % ordinal
    return data if ordinal is None and head_of(data) is None else DAMAGED


def open_file(path: Path) -> int:
    """A descriptor to read `path` with.

    Raises:
        RolloutError: there is no such file, or it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RolloutError(path, "no such rollout file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise _unreadable(path, error) from error
    return fd


def size_of(path: Path) -> int:
    """How many bytes `path` has.

    Raises:
        RolloutError: it is missing, a folder, or cannot be looked at.
    """
    try:
        if path.is_dir():
            raise RolloutError(path, "a folder, not a rollout file")
        return path.stat().st_size
    except FileNotFoundError as error:
        raise RolloutError(path, "no such rollout file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def first_line(path: Path) -> bytes:
    """The first line of a file that is not blank, or nothing.

    Raises:
        RolloutError: it cannot be read.
    """
    fd = open_file(path)
    try:
        with open(fd, "rb", closefd=False) as file:
            return next((line.removesuffix(b"\n") for line in file if line.strip()), b"")
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


def _unreadable(path: Path, error: OSError | ValueError) -> RolloutError:
    return RolloutError(path, f"cannot read the rollout ({getattr(error, 'strerror', None) or error})")
