from __future__ import annotations

import json
import math
import pickle
import re
import tracemalloc
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from codex_actors.tools.output import ToolOutputError, render

LIMIT = 40_000


class Point(BaseModel):
    x: int
    title: str = ""


class Colour(StrEnum):
    RED = "red"


class OldColour(str, Enum):  # noqa: UP042  the old way is what is tested
    RED = "red"


@dataclass
class Pair:
    left: int
    right: Path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (None, ""),
        ("", ""),
        (Colour.RED, "red"),
        (OldColour.RED, "red"),
        (3, "3"),
        (True, "true"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Point(x=1), '{"x":1,"title":""}'),
        (Pair(1, Path("/a")), '{"left":1,"right":"/a"}'),
        (math.nan, '"NaN"'),
        ("a\ud800", "a?"),
        ("é", "é"),
    ],
)
def test_values_render_as_text_or_json(value: Any, text: str) -> None:
    rendered = render(value, limit_bytes=LIMIT)
    assert rendered == text
    assert type(rendered) is str


@pytest.mark.parametrize("value", [object(), [object()], b"\xff", ["\ud800"], Point])
def test_unserialisable_values_name_their_type(value: Any) -> None:
    with pytest.raises(ToolOutputError, match=type(value).__name__) as caught:
        render(value, limit_bytes=LIMIT)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_circular_values_are_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ToolOutputError, match="Circular"):
        render(circle, limit_bytes=LIMIT)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(value=JSON_VALUES.filter(lambda value: value is not None and not isinstance(value, str)))
def test_rendered_json_reads_back(value: Any) -> None:
    assert json.loads(render(value, limit_bytes=LIMIT)) == value


NOTICE = re.compile(r"…\[([\d,]+) bytes, ([\d,]+) lines? left out\]…")


@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.just("\n")), limit_bytes=st.integers(1, 30))
def test_nothing_but_the_counted_middle_is_missing(text: str, limit_bytes: int) -> None:
    rendered = render(text, limit_bytes=limit_bytes)
    if len(text.encode()) <= limit_bytes:
        assert rendered == text
        return
    (found,) = [match for match in NOTICE.finditer(rendered) if _is_whole(text, rendered, match)]
    head, tail = rendered[: found.start()], rendered[found.end() :]
    assert not head or head.endswith("\n")
    assert not tail or tail.startswith("\n")


def _is_whole(text: str, rendered: str, found: re.Match[str]) -> bool:
    left_out, lines = (int(group.replace(",", "")) for group in found.groups())
    head, tail = rendered[: found.start()], rendered[found.end() :]
    for a in {head, head.removesuffix("\n")}:
        for b in {tail, tail.removeprefix("\n")}:
            middle = text[len(a) : len(text) - len(b)]
            counted = (len(middle.encode()), middle.count("\n")) == (left_out, lines)
            if text.startswith(a) and text.endswith(b) and counted:
                return True
    return False


@pytest.mark.parametrize(
    ("value", "limit_bytes", "text"),
    [
        ("x" * 40_000, 40_000, "x" * 40_000),
        ("é" * 20_000, 40_000, "é" * 20_000),
        ("0123456789", 10, "0123456789"),
        ("0123456789a", 10, "01234\n…[1 bytes, 0 lines left out]…\n6789a"),
        ("ééééé", 6, "é\n…[6 bytes, 0 lines left out]…\né"),
        ("€€€", 8, "€\n…[3 bytes, 0 lines left out]…\n€"),
        ("ab\ncd\nef\ngh\n", 6, "ab\n…[6 bytes, 2 lines left out]…\ngh\n"),
        ("ab\ncd\n\nfgh", 8, "ab\nc\n…[2 bytes, 1 line left out]…\nfgh"),
        ("€", 1, "…[3 bytes, 0 lines left out]…"),
        (["x" * 20], 8, '["xx\n…[16 bytes, 0 lines left out]…\nxx"]'),
        ("\ud800" * 5, 4, "??\n…[1 bytes, 0 lines left out]…\n??"),
    ],
)
def test_head_and_tail_of_too_much_are_kept(value: Any, limit_bytes: int, text: str) -> None:
    assert render(value, limit_bytes=limit_bytes) == text


def test_counts_of_a_large_middle_are_exact() -> None:
    text = "zwölf Zeichen\n" * 1_000_000
    rendered = render(text, limit_bytes=150)
    assert rendered.splitlines()[5:7] == ["…[14,999,850 bytes, 999,990 lines left out]…", "zwölf Zeichen"]
    assert len(rendered.encode()) < 150 + 60


def test_huge_text_is_not_copied_whole() -> None:
    text = "ö" * (1 << 25)
    tracemalloc.start()
    try:
        assert "bytes, 0 lines left out" in render(text, limit_bytes=LIMIT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20
