"""Time, ids and randomness: the only place they come from, so that a seed can replay a whole team."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from codex_actors.protocol.ids import ThreadId


class Clock:
    """The system's clock and randomness."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._sequence = 0
        self._stamp = (-1, "")
        self._tails: Iterator[int] = iter(())

    def now_s(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def passed_s(self) -> float:
        """Seconds since some moment: what the pump measures its slices with."""
        return time.perf_counter()

    def random_bytes(self, count: int) -> bytes:
        """Fresh random bytes."""
        return os.urandom(count)

    def pick(self, ready: int) -> int:
        """Which of `ready` waiting actors is served next, from 0. Here always the one that waits longest."""
        return 0

    def now(self) -> datetime:
        """The time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.now_s(), UTC)

    def timestamp(self) -> str:
        """The time as rollout lines have it: RFC 3339, UTC, milliseconds, `Z`."""
        ms = int(self.now_s() * 1000)
        if ms != self._stamp[0]:
            text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._stamp = (ms, f"{text}.{ms % 1000:03d}Z")
        return self._stamp[1]

    def uuid7(self) -> ThreadId:
        """A UUIDv7 that sorts behind all earlier ones of this clock (RFC 9562, section 6.2, method 1).

        The standard library has one only from Python 3.14 on, and none that takes time and randomness from outside.
        """
        ms = int(self.now_s() * 1000)
        if ms > self._last_ms:
            self._last_ms, self._sequence = ms, 0
        else:
            self._sequence += 1
            if self._sequence > 0xFFF:
                self._last_ms, self._sequence = self._last_ms + 1, 0
        tail = next(self._tails, None)  # two OS threads never get the same one
        if tail is None:
            self._tails = iter(struct.unpack(">64Q", self.random_bytes(512)))  # a system call for 64 ids
            tail = next(self._tails)
        value = self._last_ms << 80 | 0x7000 << 64 | self._sequence << 64 | 1 << 63 | tail & 0x3FFF_FFFF_FFFF_FFFF
        return ThreadId.from_v7_bytes(value.to_bytes(16))


class SimulatedClock(Clock):
    """A clock that starts at `start_s` and moves only when told, with randomness and actor order from `seed`."""

    def __init__(self, seed: int, start_s: float = 1_767_225_600.0) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._now_s = start_s
        self._looks = 0

    def now_s(self) -> float:
        """The simulated time."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now_s += seconds

    def passed_s(self) -> float:
        """Each look takes 10 µs: a slice ends after as many actors on every machine."""
        self._looks += 1
        return self._looks * 1e-5

    def random_bytes(self, count: int) -> bytes:
        """The seed's next bytes."""
        return self._random.randbytes(count)

    def pick(self, ready: int) -> int:
        """The seed's choice."""
        return self._random.randrange(ready)
