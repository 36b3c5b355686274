"""A regular expression of a model, matched in a child process.

`re` holds the GIL while it matches: one catastrophic pattern would stop every OS thread of the process, the event loop's
included, and no deadline could end it. A child is killed. Only the standard library is imported, for the child runs this file.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO

MATCHES_BOUND = 200
"""Matches told of one block."""

_BEFORE_CHARS = 100
_SHOWN_CHARS = 300


class MatchError(Exception):
    """There is no answer; the text, which begins with a verb, says why. No `OSError`: no file is at fault."""


class Matcher:
    """Matches blocks of lines for `limit_s` in all, for the length of the `with`."""

    def __init__(self, pattern: str, limit_s: float) -> None:
        self._pattern = pattern
        self._limit_s = self._left_s = limit_s

    def __enter__(self) -> Matcher:
        command = [sys.executable, "-I", "-S", __file__]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        with suppress(BrokenPipeError):  # what it had not read yet
            self._child.__exit__(None, None, None)

    def matches(self, block: bytes) -> list[tuple[int, str]]:
        """The lines that match: how many line ends stand before each, and what to show of it. At most `MATCHES_BOUND`.

        Raises:
            MatchError: the pattern takes too long, or the child has ended.
        """
        source, sink = self._child.stdout, self._child.stdin
        assert source is not None
        assert sink is not None
        began_s = time.monotonic()
        try:
            _put(sink, self._pattern.encode())
            _put(sink, block)
        except BrokenPipeError:
            raise MatchError("ended the process that matches it") from None
        poll = select.poll()
        poll.register(source, select.POLLIN)
        if not poll.poll(self._left_s * 1000):
            raise MatchError(f"takes more than {self._limit_s:g} s")
        self._left_s = max(0.0, self._left_s - (time.monotonic() - began_s))
        found = _take(source)
        if found is None:
            raise MatchError("ended the process that matches it")
        return [(before, text) for before, text in json.loads(found)]


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer each pattern and block with its matches, until the end of `source`. Runs in: the child."""
    while (pattern := _take(source)) is not None and (block := _take(source)) is not None:
        _put(sink, json.dumps(find(re.compile(pattern.decode()), block)).encode())


def find(pattern: re.Pattern[str], block: bytes) -> list[tuple[int, str]]:
    """See `Matcher.matches`."""
    found = []
    for before, ended in enumerate(block.decode("utf-8", "replace").split("\n")):
        line = ended.removesuffix("\r")
        match = pattern.search(line)
        if match is not None:
            found.append((before, _shown(line, match.start())))
            if len(found) == MATCHES_BOUND:
                break
    return found


def _shown(line: str, match_at: int) -> str:
    if len(line) <= _SHOWN_CHARS:
        return line
    start = max(0, min(match_at - _BEFORE_CHARS, len(line) - _SHOWN_CHARS))
    end = start + _SHOWN_CHARS
    return f"{'…' if start else ''}{line[start:end]}{'…' if end < len(line) else ''}"


def _put(sink: IO[bytes], data: bytes) -> None:
    sink.write(len(data).to_bytes(4, "big"))
    sink.write(data)
    sink.flush()


def _take(source: IO[bytes]) -> bytes | None:
    head = source.read(4)
    return source.read(int.from_bytes(head, "big")) if len(head) == 4 else None


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
