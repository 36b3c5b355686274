from __future__ import annotations

import io
import re

import pytest

from codex_actors.testing import no_leaks
from codex_actors.tools.matcher import MATCHES_BOUND, Matcher, MatchError, find, serve


def frames(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@pytest.mark.parametrize(
    ("pattern", "block", "found"),
    [
        ("b", b"a\nb\nab\n", [(1, "b"), (2, "ab")]),
        ("^$", b"a\n\nb", [(1, "")]),
        ("a$", b"a\r\na\n", [(0, "a"), (1, "a")]),
        ("é", "é\n".encode(), [(0, "é")]),
        ("\ufffd", b"\xff\n", [(0, "\ufffd")]),
        ("x", b"", []),
        ("b", b"a" * 500 + b"b" + b"c" * 500, [(0, "…" + "a" * 100 + "b" + "c" * 199 + "…")]),
        ("b", b"b" + b"c" * 300, [(0, "b" + "c" * 299 + "…")]),
        ("b", b"a" * 300 + b"b", [(0, "…" + "a" * 299 + "b")]),
    ],
)
def test_found_lines_are_counted_and_shown(pattern: str, block: bytes, found: list[tuple[int, str]]) -> None:
    assert find(re.compile(pattern), block) == found


def test_matches_of_a_block_are_bounded() -> None:
    assert len(find(re.compile("a"), b"a\n" * 1_000)) == MATCHES_BOUND


def test_child_answers_until_its_input_ends() -> None:
    sink = io.BytesIO()
    serve(io.BytesIO(frames(b"b", b"a\nb", b"a", b"a\nb")), sink)
    assert sink.getvalue() == frames(b'[[1, "b"]]', b'[[0, "a"]]')


def test_one_child_matches_many_blocks() -> None:
    with no_leaks(), Matcher("b", 10) as matcher:
        assert [matcher.matches(block) for block in (b"a", b"b", b"x\n" * 500_000 + b"b")] == [
            [],
            [(0, "b")],
            [(500_000, "b")],
        ]


def test_pattern_without_an_end_is_stopped() -> None:
    with no_leaks(), Matcher("(a+)+$", 0.2) as matcher, pytest.raises(MatchError, match=r"takes more than 0\.2 s"):
        matcher.matches(b"a" * 60 + b"b")


def test_child_that_ended_is_an_error() -> None:
    with no_leaks(), Matcher("(", 10) as matcher:
        for _ in range(2):
            with pytest.raises(MatchError, match="ended the process"):
                matcher.matches(b"a")
