from __future__ import annotations

from pathlib import Path

import pytest

from codex_actors.errors import InvalidRequest, ThreadNotFound
from codex_actors.rollout.listing import ThreadPage, ThreadQuery, all_threads, find_thread, list_threads
from codex_actors.rollout.names import append_name
from tests._kept_files import keep, meta_line, thread_id_of, tree_of, turn_lines


def numbers(page: ThreadPage) -> list[int]:
    return [int(thread.id[-4:], 16) for thread in page.threads]


def home_of(home: Path, count: int = 5) -> Path:
    for number in range(1, count + 1):
        began = f"2027-03-0{1 + number % 3}T10-00-00"
        keep(home, number, mtime_s=1_800_000_000 + number, began=began)
    return home


def test_newest_change_comes_first(tmp_path: Path) -> None:
    assert numbers(list_threads(home_of(tmp_path), ThreadQuery())) == [5, 4, 3, 2, 1]


def test_begin_orders_by_name_of_file(tmp_path: Path) -> None:
    assert numbers(list_threads(home_of(tmp_path), ThreadQuery(sort_by="created"))) == [5, 2, 4, 1, 3]


@pytest.mark.parametrize("sort_by", ["created", "updated"])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_join_to_whole_list(tmp_path: Path, sort_by: str, limit: int) -> None:
    home_of(tmp_path)
    whole = list_threads(tmp_path, ThreadQuery(sort_by=sort_by))  # type: ignore[arg-type]
    joined: list[int] = []
    page = list_threads(tmp_path, ThreadQuery(limit, sort_by=sort_by))  # type: ignore[arg-type]
    while page.next_cursor is not None:
        joined += numbers(page)
        page = list_threads(tmp_path, ThreadQuery(limit, page.next_cursor, sort_by))  # type: ignore[arg-type]
    assert joined + numbers(page) == numbers(whole)


def test_missing_home_has_no_threads(tmp_path: Path) -> None:
    assert list_threads(tmp_path / "none", ThreadQuery()) == ThreadPage((), None)


def test_each_filter_keeps_what_it_says(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    keep(tmp_path, 2, meta_line(2, cwd="/elsewhere", source="vscode") + turn_lines("Find the NEEDLE."))
    keep(tmp_path, 3, meta_line(3, parent_thread_id=thread_id_of(1)) + turn_lines())
    keep(tmp_path, 4, archived=True)
    append_name(tmp_path, thread_id_of(1), "Haystack", "2027-03-01T10:00:00.000Z")

    def found(**wanted: object) -> set[int]:
        return set(numbers(list_threads(tmp_path, ThreadQuery(**wanted))))  # type: ignore[arg-type]

    assert found() == {1, 2}
    assert found(cwd="/elsewhere") == found(sources=("vscode", "exec")) == found(search="needle") == {2}
    assert found(search="hayst") == {1}
    assert (found(with_agents=True), found(parent_id=thread_id_of(1))) == ({1, 2, 3}, {3})
    assert (found(archived=True), found(archived=None)) == ({4}, {1, 2, 4})


def test_thread_with_two_files_is_one(tmp_path: Path) -> None:
    keep(tmp_path, 1, mtime_s=1_800_000_000)
    newer = keep(tmp_path, 1, segment="_01a2", mtime_s=1_800_000_001)
    keep(tmp_path, 1, "no meta", segment="_01a3", mtime_s=1_800_000_002)
    (thread,) = list_threads(tmp_path, ThreadQuery()).threads
    assert thread.path == newer


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": True},
        {"sort_by": "size"},
        {"cursor": "x"},
        {"cursor": f"2027-03-01T10-00-00|{thread_id_of(1)}"},
        {"sources": "cli"},
        {"cwd": 1},
    ],
)
def test_wrong_query_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        ThreadQuery(**wrong)  # type: ignore[arg-type]


def test_thread_is_found_each_way(tmp_path: Path) -> None:
    home_of(tmp_path)
    append_name(tmp_path, thread_id_of(3), "Third", "2027-03-01T10:00:00.000Z")
    for which in (thread_id_of(3), thread_id_of(3).upper(), thread_id_of(3)[:-3] + "003", "Third", " Third "):
        assert find_thread(tmp_path, which).id == thread_id_of(3)
    assert find_thread(tmp_path, "Third").name == "Third"


def test_begin_of_several_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=thread_id_of(2)):
        find_thread(home_of(tmp_path), "01a2")
    with pytest.raises(ThreadNotFound):
        find_thread(tmp_path, "ffff")
    with pytest.raises(InvalidRequest):
        find_thread(tmp_path, " ")


def test_lists_write_nothing_at_all(tmp_path: Path) -> None:
    before = tree_of(home_of(tmp_path))
    list_threads(tmp_path, ThreadQuery(archived=None))
    find_thread(tmp_path, thread_id_of(1))
    assert len(list(all_threads(tmp_path))) == 5
    assert tree_of(tmp_path) == before
