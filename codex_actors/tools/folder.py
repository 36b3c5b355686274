"""A folder that no path leads out of: paths are walked name by name, and links are followed by hand."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from codex_actors.errors import InvalidRequest, UnsupportedOperation
from codex_actors.tools.tool import ToolError

LINKS_BOUND = 40
"""Links that one path may lead through; Linux's own figure."""

WALK_BOUND = 100_000
"""Entries that a walk looks at."""


def open_flags(*names: str) -> int:
    """Flags of `os.open`, with those that let it follow no link; one that the system lacks counts as none."""
    return sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", *names))


# With O_PATH a folder that may be entered but not listed can be walked through, as any other program does.
_STEP = open_flags("O_DIRECTORY", "O_PATH")
_FOLDER = open_flags("O_DIRECTORY")
# O_NONBLOCK: nobody may write to a pipe that took the place of a file between the look at it and the open.
_READ = open_flags("O_NONBLOCK", "O_NOCTTY")

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def kind_of(mode: int) -> str:
    """`file`, `folder`, `link`, `pipe`, `socket` or `device`."""
    return _KINDS.get(stat.S_IFMT(mode), "device")


@dataclass(frozen=True, slots=True)
class Opened:
    """A file or folder that is open; `names` are its real ones below the root."""

    descriptor: int
    names: tuple[str, ...]
    mode: int
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is or may be: its name in the folder that `descriptor` has open, and its real names below the root."""

    descriptor: int
    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds; `target` is where a link points."""

    names: tuple[str, ...]
    mode: int
    size: int
    target: str | None


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder at `root`, which is absolute and leads through no link. Every error of its methods is a `ToolError`.

    What is open is inside: each name is opened below the descriptor of the one before it, links not followed. So a link
    that is put in the place of a folder meanwhile leads nowhere. A link is followed by walking where it points, from the
    root; what it points to by an absolute path, or by way of the outside, must be inside in the end.
    """

    root: Path

    @classmethod
    def at(cls, root: Path) -> Folder:
        """The existing folder `root`, its links resolved.

        Raises:
            InvalidRequest: it is no folder.
            UnsupportedOperation: this system cannot open files below a descriptor.
        """
        if os.open not in os.supports_dir_fd:
            raise UnsupportedOperation("a folder for tools needs openat(), as on Linux and macOS")
        if not isinstance(root, Path):
            raise InvalidRequest(f"root: {root!r} is not a pathlib.Path")
        try:
            real = root.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise InvalidRequest(f"root: {str(root)!r} is no existing folder: {error}") from None
        if not real.is_dir():
            raise InvalidRequest(f"root: {str(root)!r} is not a folder")
        return cls(real)

    @contextmanager
    def opened(self, path: str) -> Iterator[Opened]:
        """The file or folder at `path`, which is absolute or relative to the root; open for the length of the `with`."""
        try:
            descriptor, names = self._reach(path)
        except (OSError, ValueError) as error:
            raise self._refusal(path, error) from None
        try:
            found = os.fstat(descriptor)
            self._check_kind(path, found.st_mode)
            yield Opened(descriptor, tuple(names), found.st_mode, found.st_size)
        except OSError as error:
            raise self._refusal(path, error) from None
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[Place]:
        """The place of the file at `path`; its folder is open for the length of the `with`.

        Links on the way are followed as `opened` does; what is at the place itself is not looked at. With `make`, folders
        that are missing are created. What the `with` raises of `OSError` is a `ToolError` too.
        """
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise ToolError(f"{path!r} does not name a file; give the path of a file")
        try:
            descriptor, names = self._reach(above or ("/" if path.startswith("/") else "."), partial(_into, make=make))
        except (OSError, ValueError) as error:
            raise self._refusal(path, error, "reach") from None
        try:
            yield Place(descriptor, name, (*names, name))
        except OSError as error:
            raise self._refusal(path, error, "write") from None
        finally:
            os.close(descriptor)

    def children(self, names: tuple[str, ...]) -> list[Entry]:
        """What the folder holds, by name; at most `WALK_BOUND` entries and one."""
        path = "/".join(names) or "."
        entries = []
        with self.opened(path) as place:
            if not stat.S_ISDIR(place.mode):
                raise ToolError(f"{path!r} is a file, not a folder")
            with os.scandir(place.descriptor) as found:
                for each in islice(found, WALK_BOUND + 1):
                    try:
                        info = each.stat(follow_symlinks=False)
                        target = os.readlink(each.name, dir_fd=place.descriptor) if each.is_symlink() else None
                    except FileNotFoundError:  # gone since the folder was read
                        continue
                    entries.append(Entry((*place.names, each.name), info.st_mode, info.st_size, target))
        return sorted(entries, key=lambda entry: entry.names)

    def _reach(self, path: str, step: Callable[..., int] | None = None) -> tuple[int, list[str]]:
        left = self._inside(path, path) if path.startswith("/") else list(PurePosixPath(path).parts)
        names: list[str] = []
        links = 0
        descriptor = self._open_root()
        try:
            while left:
                name = left.pop(0)
                target = _target(descriptor, name)
                if name != ".." and target is None:
                    opened = (step or self._step)(path, descriptor, name, is_last=not left)
                    os.close(descriptor)
                    descriptor = opened
                    names.append(name)
                    continue
                if name == "..":
                    left = [*names[:-1], *left] if names else self._inside(path, os.path.join(self.root, "..", *left))
                elif target is not None:
                    links += 1
                    if links > LINKS_BOUND:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    at = (
                        self._inside(path, target) if target.startswith("/") else [*names, *PurePosixPath(target).parts]
                    )
                    left = [*at, *left]
                names = []
                os.close(descriptor)
                descriptor = self._open_root()
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, names

    def _open_root(self) -> int:
        return os.open(self.root, _FOLDER)

    def _step(self, path: str, descriptor: int, name: str, *, is_last: bool) -> int:
        if is_last:  # looked at before: to open a device may already do something
            self._check_kind(path, os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
        return os.open(name, _READ if is_last else _STEP, dir_fd=descriptor)

    def _inside(self, path: str, absolute: str) -> list[str]:
        """The names of an absolute path below the root. Only a hint where to walk: the walk itself is what is checked."""
        try:
            return list(Path(os.path.realpath(absolute)).relative_to(self.root).parts)
        except ValueError:
            raise ToolError(
                f"{path!r} leads out of the folder {str(self.root)!r}; only what is in it can be reached"
            ) from None

    def _check_kind(self, path: str, mode: int) -> None:
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ToolError(f"{path!r} is a {kind_of(mode)}; only files and folders can be read")

    def _refusal(self, path: str, error: OSError | ValueError, what: str = "read") -> ToolError:
        why = getattr(error, "strerror", None) or str(error)
        return ToolError(f"cannot {what} {path!r} in the folder {str(self.root)!r}: {why}")


def _into(path: str, descriptor: int, name: str, *, is_last: bool, make: bool) -> int:
    """A step from folder to folder; with `make`, one that is missing is created."""
    flags = _FOLDER if is_last else _STEP  # the last one is synced, which O_PATH does not allow
    try:
        return os.open(name, flags, dir_fd=descriptor)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # somebody was faster
        os.mkdir(name, dir_fd=descriptor)
    return os.open(name, flags, dir_fd=descriptor)


def _target(descriptor: int, name: str) -> str | None:
    """Where the link points; None if it is none."""
    try:
        return os.readlink(name, dir_fd=descriptor)
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of names: `*`, `?`, `[...]` within one, `**` for any number of folders.

    As in a shell, a name that begins with a dot is found only by a pattern that has the dot. Matched one name at a time:
    the states are places in the pattern, so that folders without a chance are never opened.
    """

    parts: tuple[str, ...]

    def start(self) -> frozenset[int]:
        """The states at the top folder."""
        return self._closed({0})

    def after(self, states: frozenset[int], name: str) -> frozenset[int]:
        """The states behind one more name; none if nothing below it can fit."""
        reached: set[int] = set()
        for state in states:
            part = self.parts[state] if state < len(self.parts) else None
            if part is None or (name.startswith(".") and not part.startswith(".")):
                continue
            if part == "**":
                reached.add(state)
            elif fnmatchcase(name, part):
                reached.add(state + 1)
        return self._closed(reached)

    def fits(self, states: frozenset[int]) -> bool:
        """Whether the names so far fit the whole pattern."""
        return len(self.parts) in states

    def _closed(self, states: set[int]) -> frozenset[int]:
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == "**":
                state += 1
                states.add(state)
        return frozenset(states)


@dataclass(slots=True)
class Walk:
    """The entries below a folder that fit, a folder before what it holds, by name. Follows no link.

    Attributes:
        unreadable: Folders that could not be read so far.
        is_cut: Whether it ended at `WALK_BOUND`.
    """

    folder: Folder
    top: tuple[str, ...]
    glob: Glob
    unreadable: int = field(default=0, init=False)
    is_cut: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Entry]:
        start = self.glob.start()
        pending = [(entry, start) for entry in reversed(self.folder.children(self.top))]
        for _ in range(WALK_BOUND):
            if not pending:
                return
            entry, states = pending.pop()
            states = self.glob.after(states, entry.names[-1])
            if self.glob.fits(states):
                yield entry
            if states and stat.S_ISDIR(entry.mode):
                pending += [(child, states) for child in reversed(self._children(entry))]
        self.is_cut = bool(pending)

    def _children(self, entry: Entry) -> list[Entry]:
        try:
            return self.folder.children(entry.names)
        except ToolError:
            self.unreadable += 1
            return []
