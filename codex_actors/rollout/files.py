"""What writing a rollout asks of the operating system.

The law of this file: a name never stands for half a file, and nothing here decides what is written.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

APPENDING = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
NEW = APPENDING | os.O_CREAT | os.O_EXCL

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What a file system says that knows no hard links."""


class Files:
    """The calls that a writer makes, each as `os` has it. Another object in its place may refuse any of them.

    Runs in: the writer's OS thread, which may block on the disk.
    """

    def open(self, path: Path | str, flags: int) -> int:
        """A descriptor of `path`; a new file is its owner's alone."""
        return os.open(path, flags, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """How many bytes of `data` were written, at least one."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """What was written is on the disk."""
        os.fsync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        """The file ends at `size`."""
        os.ftruncate(fd, size)

    def close(self, fd: int) -> None:
        """The descriptor is free, also where this raises."""
        os.close(fd)


def write_all(files: Files, fd: int, data: bytes | memoryview) -> None:
    """Write `data`. A short write is gone on with: on a full disk the next attempt says why."""
    written = files.write(fd, data)
    while written < len(data):
        more = files.write(fd, memoryview(data)[written:])
        if more <= 0:
            raise OSError(errno.EIO, "the disk takes no more bytes, and does not say why")
        written += more


def publish(temporary: Path | str, path: Path) -> None:
    """Give a whole file its name, unless that is taken already.

    Raises:
        FileExistsError: it is.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(temporary, path)
    # Not a reason to say that the file could not be made: it is there.
    with suppress(OSError):
        os.unlink(temporary)


def make_folders(folder: Path, changed: list[Path]) -> None:
    """Make `folder` and what leads to it, each 0700 (`Path.mkdir` does that for the last one only).

    Folders that got an entry are added to `changed`.
    """
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            # Somebody else may make the same day's folder at this moment.
            with suppress(FileExistsError):
                os.mkdir(part, 0o700)
                changed.append(part.parent)


def fsync_folder(files: Files, folder: Path) -> None:
    """The entries of `folder` are on the disk."""
    fd = files.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)
