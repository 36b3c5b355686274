from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codex_actors.tools.capture import Capture
from codex_actors.tools.output import render


def captured(limit_bytes: int, *pieces: bytes) -> Capture:
    capture = Capture(limit_bytes)
    for piece in pieces:
        capture.add(piece)
    return capture


def test_short_output_is_kept_whole() -> None:
    capture = captured(10, b"abc", b"\ndef", b"ghi")
    assert (capture.text(), capture.is_cut, capture.total_lines) == ("abc\ndefghi", False, 1)


def test_long_output_loses_its_middle() -> None:
    capture = captured(4, b"ab", b"12\n3", b"yz")
    assert capture.text() == "ab\n…[4 bytes, 1 line left out]…\nyz"
    assert capture.is_cut


def test_memory_is_bounded_for_any_length() -> None:
    capture = captured(100, *[b"0123456789\n" * 100] * 500)
    assert capture.total_bytes == 550_000
    assert capture.total_lines == 50_000
    assert len(capture._head) + len(capture._tail) <= 1_100 + 200
    assert len(capture.text().encode()) < 200


@given(st.lists(st.text(max_size=20)), st.integers(1, 60))
def test_pieces_read_as_one_rendered_text(pieces: list[str], limit_bytes: int) -> None:
    capture = captured(limit_bytes, *(piece.encode() for piece in pieces))
    assert capture.text() == render("".join(pieces), limit_bytes=limit_bytes)
