"""Bytes of an event stream in, its events out; no I/O here.

Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream". Its dispatch is kept to the letter but for one bound:
an event may have at most `max_event_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

from codex_actors.errors import StreamError

MAX_EVENT_BYTES = 64 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event. `name` is its `event` field, "" where it has none (the standard then calls it `message`)."""

    name: str
    data: str


_new_event = tuple.__new__
"""Makes an event for half the price of its constructor; a stream has tens of thousands."""


class SseDecoder:
    """Decodes one stream; a new stream needs a new decoder.

    Each byte is looked at once, however the stream is cut. What stands behind the last blank line at the end of the
    stream is no event. Bytes that are not UTF-8 become U+FFFD.

    Attributes:
        last_event_id: The newest `id` of an event that was given out, or "".
        retry_ms: The newest `retry`, or None.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self._max_bytes = max_event_bytes
        self._pieces: list[bytes] = []  # of the line that has not ended
        self._pieces_bytes = 0
        self._is_begun = False
        self._is_after_cr = False
        self._name = ""
        self._data: list[str] = []
        self._data_chars = 0
        self._id = ""

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` ends, in order; often none.

        Raises:
            StreamError: an event is longer than `max_event_bytes`. The decoder is of no use then.
        """
        if self._is_after_cr and chunk:
            self._is_after_cr = False
            if chunk[:1] == b"\n":  # the other half of a CR LF
                chunk = chunk[1:]
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        rest = chunk[end:] if end else chunk
        whole = b""
        if end:
            whole = b"".join((*self._pieces, chunk[:end]))
            self._pieces, self._pieces_bytes = [], 0
            self._is_after_cr = end == len(chunk) and chunk[-1:] == b"\r"
        if rest:
            self._pieces.append(rest)
            self._pieces_bytes += len(rest)
        events = self._read(whole) if whole else []
        if self._pieces_bytes + self._data_chars > self._max_bytes:
            raise StreamError(f"an event of the stream is longer than {self._max_bytes} bytes")
        return events

    def _read(self, whole: bytes) -> list[ServerSentEvent]:
        if not self._is_begun:
            self._is_begun = True
            whole = whole.removeprefix(_BOM)
        # Decoded in one go: the cut is behind a line's end, which is ASCII, so no character is cut.
        text = whole.decode("utf-8", "replace")
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.split("\n")
        del lines[-1]  # behind the last line's end
        events = []
        data, name = self._data, self._name
        for line in lines:
            if line[:6] == "data: ":  # first: most lines are
                data.append(line[6:])
                self._data_chars += len(line)
            elif not line:
                if data:
                    events.append(_new_event(ServerSentEvent, (name, data[0] if len(data) == 1 else "\n".join(data))))
                    data.clear()
                    self._data_chars = 0
                name = ""
                self.last_event_id = self._id
            elif line[:7] == "event: ":
                name = line[7:]
            else:
                self._name = name
                self._take_field(line)
                name = self._name
        self._name = name
        return events

    def _take_field(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._data_chars += len(line) + 1  # the line's end: a flood of empty lines has a bound too
        elif field == "event":
            self._name = value
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:18])
