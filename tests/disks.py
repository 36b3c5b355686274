"""Disks that fail, for the writer to write to."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from codex_actors.rollout.files import Files


def error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class FullDisk(Files):
    """A disk that is full while `is_full`, for the files with `part` in their names."""

    def __init__(self, part: str = "") -> None:
        self.is_full = False
        self.code = errno.ENOSPC
        self._part = part
        self._paths: dict[int, str] = {}

    def open(self, path: Path | str, flags: int) -> int:
        fd = super().open(path, flags)
        self._paths[fd] = os.fspath(path)
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.is_full and self._part in self._paths[fd]:
            raise error(self.code)
        return super().write(fd, data)


class SlowDisk(Files):
    """A disk that writes nothing before `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if not self.go_on.wait(20.0):
            raise error(errno.ETIMEDOUT)
        return super().write(fd, data)


class FailingDisk(Files):
    """A disk whose every `period`-th call fails (0: none does): with `code`, or by a short write that nothing follows."""

    def __init__(self, kinds: frozenset[str], period: int, code: int, *, is_short: bool = False) -> None:
        self.period = period
        self._kinds = kinds
        self._code = code
        self._is_short = is_short
        self._calls = 0
        self._is_cut_short = False

    def _fails(self, kind: str) -> bool:
        if not self.period or kind not in self._kinds:
            return False
        self._calls += 1
        return self._calls % self.period == 0

    def _call(self, kind: str) -> None:
        if self._fails(kind):
            raise error(self._code)

    def open(self, path: Path | str, flags: int) -> int:
        self._call("open")
        return super().open(path, flags)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self._is_cut_short:
            self._is_cut_short = False
            raise error(self._code)
        if self._fails("write"):
            if not self._is_short or len(data) < 2:
                raise error(self._code)
            self._is_cut_short = True
            return super().write(fd, data[: len(data) // 2])
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._call("fsync")

    def ftruncate(self, fd: int, size: int) -> None:
        self._call("ftruncate")
        super().ftruncate(fd, size)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._call("close")
