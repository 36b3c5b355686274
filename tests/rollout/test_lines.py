from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import Segment
from codex_actors.rollout.lines import (
    BLOCK_BYTES,
    QUICK_HEAD,
    FileLines,
    Head,
    MemoryLines,
    first_line,
    head_of,
    ordinal_of,
)

SIZES = [0, 1, 700, BLOCK_BYTES - 1, BLOCK_BYTES, 3, 3 * BLOCK_BYTES, 0, 40, BLOCK_BYTES // 2, 9]
LINES = [bytes([97 + number]) * size for number, size in enumerate(SIZES)]


@pytest.fixture
def segments(tmp_path: Path) -> tuple[Segment, ...]:
    """Two files of the same lines: the second ends in a torn one, and of the first only a part counts."""
    data = b"".join(line + b"\n" for line in LINES)
    (tmp_path / "one").write_bytes(data + b"more\n")
    (tmp_path / "two").write_bytes(data + b"torn")
    return Segment(tmp_path / "one", len(data)), Segment(tmp_path / "two", len(data) + 4)


def test_lines_of_files_follow_each_other(segments: tuple[Segment, ...]) -> None:
    with FileLines(segments) as source:
        found = list(source.lines())
        assert [line for _, line in found] == [*LINES, *LINES, b"torn"]
        assert [source.line(address) for address, _ in found] == [line for _, line in found]
        assert [source.line(address) for address, _ in reversed(found)] == [line for _, line in reversed(found)]


def test_lines_are_found_backwards_from_anywhere(segments: tuple[Segment, ...]) -> None:
    with FileLines(segments) as source:
        found = list(source.lines())
        assert list(source.lines_before(source.size)) == found[::-1]
        for number, (address, _) in enumerate(found):
            assert list(source.lines(address)) == found[number:]
            assert list(source.lines_before(address)) == found[:number][::-1]


def test_lines_in_memory_have_their_numbers() -> None:
    source = MemoryLines(LINES)
    assert list(source.lines(9)) == [(9, LINES[9]), (10, LINES[10])]
    assert list(source.lines_before(2)) == [(1, LINES[1]), (0, LINES[0])]
    assert source.line(2) == LINES[2]


@pytest.mark.parametrize(
    ("line", "head", "is_quick"),
    [
        (
            b'{"timestamp":"2026-01-08T10:11:12.123Z","type":"event_msg","payload":{"type":"a_b","x":1}}',
            ("event_msg", "a_b"),
            True,
        ),
        (b'{"timestamp":"2026-01-08T10:11:12.123Z","ordinal":7,"type":"x","payload":{"y":1}}', ("x", None), True),
        (b'{"timestamp":"","type":"event_msg","payload":{"type":"a"}}', ("event_msg", "a"), False),
        (b'{"type": "event_msg", "payload": {"x": 1, "type": "a"}}', ("event_msg", "a"), False),
        (b'{"payload":[],"type":"x"}', ("x", None), False),
        (b'{"payload":{"type":["no"]},"type":"x"}', ("x", None), False),
    ],
)
def test_the_head_of_a_line_in_any_form(line: bytes, head: tuple[str, str | None], is_quick: bool) -> None:
    kind, tag = head
    assert head_of(line) == Head(kind.encode(), None if tag is None else tag.encode())
    assert (QUICK_HEAD.match(line) is not None) == is_quick


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"type":7}', b'{"payload":{}}', b"\xff"])
def test_what_is_no_line_has_no_head(line: bytes) -> None:
    assert head_of(line) is None


def test_an_ordinal_is_a_whole_number() -> None:
    stamp = b'{"timestamp":"2026-01-08T10:11:12.123Z",'
    assert ordinal_of(stamp + b'"ordinal":12,"type":"x","payload":{}}') == 12
    assert ordinal_of(json.dumps({"type": "x", "ordinal": 3}).encode()) == 3
    assert ordinal_of(stamp + b'"type":"x","payload":{"ordinal":3}}') is None
    assert ordinal_of(b'{"ordinal":"3","type":"x"}') is None


def test_a_first_line_may_be_long_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\n \n" + b"x" * (2 * BLOCK_BYTES) + b"\nrest\n")
    assert first_line(path) == b"x" * (2 * BLOCK_BYTES)
    path.write_bytes(b"\n\n")
    assert first_line(path) == b""
    with pytest.raises(RolloutError, match="no such rollout file"):
        first_line(tmp_path / "none")
