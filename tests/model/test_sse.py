from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import StreamError
from codex_actors.model.sse import ServerSentEvent, SseDecoder

PIECES = [
    b"data: a\n",
    b"data",
    b":",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    b"event: x\n",
    b"id: 1\r",
    b"\xef\xbb\xbf",
    b"\xf0\x9f",
]


def decode(*chunks: bytes) -> list[tuple[str, str]]:
    decoder = SseDecoder()
    return [(event.name, event.data) for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("", "a")]),
        (b"data:a\n\n", [("", "a")]),
        (b"data:  a \n\n", [("", " a ")]),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1"), ("", "2")]),
        (b"event:add\r\ndata:1\r\n\r\n", [("add", "1")]),
        (b"data: a\rdata: b\r\r", [("", "a\nb")]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", "YHOO\n+2\n10")]),
        (b": comment\n\ndata: a\n: more\n\n", [("", "a")]),
        (b"data\n\ndata\ndata\n\ndata:", [("", ""), ("", "\n")]),
        (b"data:test\n\ndata: test\n\n", [("", "test"), ("", "test")]),
        (b"event: lost\n\ndata: a\n\n", [("", "a")]),
        (b"unknown: x\nDATA: y\ndata: a\n\n", [("", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("", "a")]),
        (b"data: \xff\xc3\n\n", [("", "\ufffd\ufffd")]),
        (b"data: a\x00b\x0bc\xe2\x80\xa8d\n\n", [("", "a\x00b\x0bc\u2028d")]),
        (b"data: no end\n", []),
        (b"", []),
    ],
)
def test_stream_decodes_as_the_standard_says(stream: bytes, events: list[tuple[str, str]]) -> None:
    assert decode(stream) == events
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == events


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30), st.data())
def test_cuts_do_not_change_what_comes(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*chunks) == decode(stream)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1))
def test_texts_come_back_as_they_were(lines: list[str]) -> None:
    stream = "".join(f"data: {line}\n" for line in lines) + "\n"
    assert decode(stream.encode()) == [("", "\n".join(lines))]


def test_ids_and_retries_are_kept_aside() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"id: 7\nretry: 1500\n") == []
    assert (decoder.last_event_id, decoder.retry_ms) == ("", 1500)
    decoder.feed(b"\nid: a\x00b\nretry: 1e3\nretry: -1\n\n")
    assert (decoder.last_event_id, decoder.retry_ms) == ("7", 1500)
    decoder.feed(b"id\n\n")
    assert decoder.last_event_id == ""


def test_events_have_a_name_and_data() -> None:
    assert SseDecoder().feed(b"event: a\ndata: b\n\n") == [ServerSentEvent(name="a", data="b")]
    assert repr(ServerSentEvent("a", "b")) == "ServerSentEvent(name='a', data='b')"


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 100, b"data: x\n" * 20, b"data\n" * 40, b"x" * 101])
def test_event_without_an_end_is_refused(stream: bytes) -> None:
    decoder = SseDecoder(max_event_bytes=100)
    with pytest.raises(StreamError, match="longer than 100 bytes"):
        [decoder.feed(stream[at : at + 7]) for at in range(0, len(stream), 7)]


def test_bound_is_that_of_one_event() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    assert sum(len(decoder.feed(b"data: " + b"x" * 50 + b"\n\n")) for _ in range(10)) == 10


def test_each_byte_of_a_long_line_is_touched_once() -> None:
    decoder, line = SseDecoder(), b"x" * 65536
    for piece in [b"data: ", *[line] * 160]:
        decoder.feed(piece)
        assert decoder._pieces[-1] is piece  # kept as it came: not joined, not copied
    (event,) = decoder.feed(b"\n\n")
    assert event.data == "x" * 65536 * 160
