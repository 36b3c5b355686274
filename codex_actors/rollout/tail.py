"""Reading a rollout while another writes it: whole lines, each once, also when the file is replaced by a take-over or a
salvage."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import RolloutItem
from codex_actors.rollout.lines import size_of
from codex_actors.rollout.reader import parse

CHUNK_BYTES = 1 << 20
"""What one reading takes at most, unless a single line is longer."""

_SEEN_BYTES = 1 << 16
"""So much of what was read last is looked for in a file that takes the place."""


class Tail:
    """The end of one rollout. It holds no descriptor between two readings.

    Runs in: OS threads that may block, one at a time.
    """

    def __init__(self, path: Path, *, from_start: bool) -> None:
        """Begins behind the last whole line, or at the start.

        Raises:
            RolloutError: the file cannot be read.
        """
        self.path = path
        self._inode = -1
        self._offset = 0
        self._seen = b""
        if from_start:
            size_of(path)  # else a missing file would be told of by the first reading only
        else:
            while self._lines():
                pass

    def read(self) -> list[RolloutItem]:
        """The lines that have come; empty where there are none yet.

        Raises:
            RolloutError: the file cannot be read any more.
        """
        return parse(self._lines())

    def _lines(self) -> bytes:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            why = getattr(error, "strerror", None) or error
            raise RolloutError(self.path, f"cannot follow the rollout ({why})") from error
        try:
            stat = os.fstat(fd)
            # A writer cuts lines off that it could not keep, and writes the same ones again: the place stays.
            if stat.st_ino != self._inode:
                self._offset = self._place_in(fd, stat.st_size)
                self._inode = stat.st_ino
            length = CHUNK_BYTES
            data = os.pread(fd, length, self._offset)
            while b"\n" not in data and len(data) == length:
                length *= 4
                data = os.pread(fd, length, self._offset)
        except OSError as error:
            raise RolloutError(self.path, f"cannot follow the rollout ({error.strerror})") from error
        finally:
            os.close(fd)
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        seen = self._seen + data
        self._seen = seen[seen.rfind(b"\n", 0, max(0, len(seen) - _SEEN_BYTES)) + 1 :]
        return data

    def _place_in(self, fd: int, size: int) -> int:
        """Where to go on in another file: behind the last line that both have. One that took over lacks what was not kept,
        and may have new lines there; one that was salvaged lacks its damage."""
        seen = self._seen
        if os.pread(fd, len(seen), self._offset - len(seen)) == seen:
            return self._offset
        if size:
            with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data:
                for line in reversed(seen[:-1].split(b"\n")):
                    place = data.rfind(line + b"\n")
                    if line and place >= 0:
                        return place + len(line) + 1
        raise RolloutError(self.path, "another file has taken its place, without what was read last; follow it anew")
