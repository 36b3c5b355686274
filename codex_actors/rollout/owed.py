"""What a rollout is owed: the lines that wait for it, and what else is still to be done there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from codex_actors.errors import RolloutError
from codex_actors.rollout.encode import Recordable, encode_body, encode_lines, time_of


@dataclass(frozen=True, slots=True)
class Append:
    """Lines for the end of one file, all with one `timestamp` (as `Clock.timestamp` makes it).

    Bytes are a line that `encode_body` has made, or a whole line, which keeps its own timestamp. `create`: these are the
    first lines of a file that must not exist yet. Otherwise it must exist. Without items it only tries again what waits for
    the path. `is_last`: the thread has ended; once all is written, its file is closed and anybody may become its writer.
    """

    path: Path
    timestamp: str
    items: tuple[Recordable | bytes, ...]
    create: bool
    is_last: bool = False


class Cut(NamedTuple):
    """What still has to be cut off a file: all behind `end`, if it is what `data` begins with."""

    inode: int
    end: int
    data: bytes


@dataclass(slots=True)
class Owed:
    """What one path is owed."""

    lines: list[tuple[str, bytes]] = field(default_factory=list)
    """Timestamps, and what `encode_body` has made, or whole lines: the file's own times are known when it is open."""
    size_bytes: int = 0
    create: bool = False
    head: tuple[str, bytes] | None = None
    """The first line of a file that is not made yet, as no other line could be put into JSON."""
    cut: Cut | None = None
    folders: list[Path] = field(default_factory=list)
    """Folders whose new entries have to reach the disk together with the lines."""
    unsynced: int = 0
    """Lines that are in the file, whose entry has not reached the disk."""
    has_failed: bool = False
    is_changed: bool = False
    """Whether that was because another program has changed the file, or removed it."""
    is_last: bool = False

    @property
    def count(self) -> int:
        """How many lines wait; 0 where there is nothing to do."""
        return len(self.lines) + self.unsynced

    def take(self, append: Append) -> RolloutError | None:
        """Put the lines of `append` behind those that wait; the error where they are no JSON."""
        self.is_last = append.is_last or (self.is_last and not append.items)
        bodies: list[bytes] = []
        try:
            for item in append.items:
                bodies.append(item if isinstance(item, bytes) else encode_body(item))
        except (ValueError, TypeError, RecursionError) as error:
            if append.create and bodies:
                self.create, self.head = True, (append.timestamp, bodies[0])
            return RolloutError(append.path, f"a line cannot be put into JSON ({error})")
        self.create = self.create or append.create
        if self.head is not None and bodies:
            self.lines.append(self.head)
            self.head = None
        self.lines += [(time_of(body) or append.timestamp, body) for body in bodies]
        self.size_bytes += sum(map(len, bodies))
        return None

    def stamped(self, timestamp: str) -> tuple[bytes, str]:
        """The lines as a file takes them whose last one is of `timestamp`, and the timestamp of the new last one."""
        lines: list[bytes] = []
        bodies: list[bytes] = []
        for stamp, body in self.lines:
            if stamp > timestamp:
                lines += encode_lines(timestamp, bodies)
                timestamp, bodies = stamp, []
            bodies.append(body)
        lines += encode_lines(timestamp, bodies)
        return b"".join(lines), timestamp

    def written(self) -> None:
        """The lines are in the file: they are never written again."""
        self.unsynced += len(self.lines)
        self.lines, self.size_bytes = [], 0
