from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import RolloutError
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.chain import ancestor_in, path_of_thread, segments_of
from codex_actors.rollout.reader import rollout_path_of, rollout_paths_of

DATA = Path(__file__).parent / "data"
ROOT_ID = ThreadId("01a30000-0000-7000-8000-00000000000a")
FORK_ID = ThreadId("01a30000-0000-7000-8000-00000000000b")


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """The day's folder of a home with the files of `data`."""
    return Path(shutil.copytree(DATA, tmp_path / "sessions" / "2026" / "11" / "20"))


def file_of(day: Path, pattern: str) -> Path:
    return next(day.glob(pattern))


def with_meta(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    first, rest = path.read_bytes().split(b"\n", 1)
    meta = json.loads(first)
    change(meta["payload"])
    path.write_bytes(json.dumps(meta).encode() + b"\n" + rest)


def test_a_file_without_a_base_is_all_there_is(day: Path) -> None:
    root = file_of(day, "*00a.jsonl")
    (segment,) = segments_of(root)
    assert (segment.path, segment.end) == (root, root.stat().st_size)


def test_the_parent_is_found_on_another_day(day: Path) -> None:
    other = day.parents[1] / "10" / "02"
    other.mkdir(parents=True)
    fork = file_of(day, "*00b.jsonl")
    moved = fork.rename(other / fork.name)
    assert [segment.path for segment in segments_of(moved)] == [file_of(day, "*00a.jsonl"), moved]


def test_the_parent_is_found_in_the_archive(day: Path) -> None:
    archive = day.parents[3] / "archived_sessions"
    archive.mkdir()
    root = file_of(day, "*00a.jsonl")
    moved = root.rename(archive / root.name)
    assert segments_of(file_of(day, "*00b.jsonl"))[0].path == moved


def test_the_parent_is_found_beside_under_any_name(tmp_path: Path) -> None:
    shutil.copy(file_of(DATA, "*00a.jsonl"), tmp_path / "parent.jsonl")
    shutil.copy(file_of(DATA, "*00b.jsonl"), tmp_path / "child.jsonl")
    (tmp_path / "broken.jsonl").write_bytes(b"{\n")
    assert [segment.path.name for segment in segments_of(tmp_path / "child.jsonl")] == ["parent.jsonl", "child.jsonl"]


def test_the_ordinal_stands_in_for_a_wrong_offset(day: Path) -> None:
    file_of(day, "*_*.jsonl").unlink()
    fork = file_of(day, "*00b.jsonl")
    (whole, _) = segments_of(fork)
    with_meta(fork, lambda meta: meta["history_base"].update(end_byte_offset=whole.end - 7))
    assert segments_of(fork)[0] == whole


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ({"thread_id": ROOT_ID}, "neither end_ordinal_exclusive nor end_byte_offset"),
        ({"end_byte_offset": 7}, "names no thread"),
        ([1], "names no thread"),
        ({"thread_id": "no id", "end_byte_offset": 7}, "thread no id.*is missing"),
        ({"thread_id": ROOT_ID, "end_ordinal_exclusive": 9_999}, "is missing"),
    ],
)
def test_a_base_that_leads_nowhere_is_named(day: Path, base: Any, named: str) -> None:
    fork = file_of(day, "*00b.jsonl")
    with_meta(fork, lambda meta: meta.update(history_base=base))
    with pytest.raises(RolloutError, match=named):
        segments_of(fork)


def test_a_circle_of_bases_has_an_end(day: Path) -> None:
    root, fork = file_of(day, "*00a.jsonl"), file_of(day, "*00b.jsonl")
    last = json.loads(fork.read_bytes().splitlines()[-1])["ordinal"]
    base = {"thread_id": FORK_ID, "end_ordinal_exclusive": last + 1, "end_byte_offset": fork.stat().st_size}
    with_meta(root, lambda meta: meta.update(history_base=base))
    with pytest.raises(RolloutError, match="never ends"):
        segments_of(root)


def test_all_files_of_a_thread_are_found(day: Path) -> None:
    home = day.parents[3]
    names = [path.name for path in rollout_paths_of(home, ROOT_ID)]
    assert names == [file_of(day, "*_*.jsonl").name, file_of(day, "*00a.jsonl").name]
    assert rollout_path_of(home, ROOT_ID) == file_of(day, "*_*.jsonl")


def test_a_meta_says_where_its_thread_comes_from(day: Path) -> None:
    fork = file_of(day, "*00b.jsonl")
    ancestor = ancestor_in(fork)
    first = json.loads(fork.read_bytes().splitlines()[0])["ordinal"]
    assert (ancestor.thread_id, ancestor.forked_from_id, ancestor.forked_from_lines) == (FORK_ID, ROOT_ID, first)
    assert path_of_thread(fork, ROOT_ID) is not None
    (day / "none.jsonl").write_bytes(b"{}\n")
    with pytest.raises(RolloutError, match="failed to parse thread ID"):
        ancestor_in(day / "none.jsonl")
