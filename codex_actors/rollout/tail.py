"""Reading a rollout while another writes it: whole lines, each once, also when the file is replaced by a take-over."""

from __future__ import annotations

import os
from pathlib import Path

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import RolloutItem
from codex_actors.rollout.reader import parse

CHUNK_BYTES = 1 << 20
"""What one reading takes at most, unless a single line is longer."""


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
        if not from_start:
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
        except OSError as error:
            raise RolloutError(self.path, f"cannot follow the rollout ({error.strerror})") from error
        try:
            stat = os.fstat(fd)
            # A writer cuts lines off that it could not keep, and writes the same ones again: the place stays. A file that
            # took over has all that was kept; a shorter one is another thread's business.
            if stat.st_ino != self._inode:
                self._inode, self._offset = stat.st_ino, min(self._offset, stat.st_size)
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
        return data
