"""Output of any length in bounded memory: its head and its tail, and how much stood between them."""

from __future__ import annotations

from codex_actors.tools.output import around


class Capture:
    """Keeps the first and the last half of `limit_bytes` of the UTF-8 that it is given, whole characters at a time.

    Attributes:
        total_bytes: All that it was given.
        total_lines: The line ends in it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._head_bytes = limit_bytes // 2
        self._tail_bytes = limit_bytes - self._head_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0
        self.total_lines = 0

    def add(self, data: bytes) -> None:
        """Take valid UTF-8 in."""
        self.total_bytes += len(data)
        self.total_lines += data.count(b"\n")
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_bytes:  # not at each call: what is cut off in front moves the rest
            del self._tail[: -self._tail_bytes]

    @property
    def is_cut(self) -> bool:
        """Whether `text` leaves something out."""
        return self.total_bytes > self._head_bytes + self._tail_bytes

    def text(self) -> str:
        """What was kept; where something is left out, with a line between head and tail that says how much."""
        if not self.is_cut:
            return (self._head + self._tail).decode()
        # "ignore" leaves out the halves of characters at the two cuts, and finds nothing else to ignore.
        head = self._head.decode("utf-8", "ignore")
        tail = self._tail[-self._tail_bytes :].decode("utf-8", "ignore")
        left_out = self.total_bytes - len(head.encode()) - len(tail.encode())
        return around(head, tail, left_out, self.total_lines - head.count("\n") - tail.count("\n"))
