from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest, RolloutError, ThreadNotFound
from codex_actors.rollout.index import Index
from codex_actors.rollout.listing import SortBy, ThreadPage, ThreadQuery, find_thread, list_threads
from codex_actors.rollout.names import append_name
from tests._kept_files import keep, kept_path, meta_line, thread_id_of, tree_of, turn_lines

NOW = "2027-03-01T10:00:00.000Z"
ALL = ThreadQuery(archived=None, with_agents=True)
QUERIES = (
    ThreadQuery(),
    ALL,
    ThreadQuery(2),
    ThreadQuery(archived=True, sort_by="created"),
    ThreadQuery(archived=None, search="ell"),
    ThreadQuery(cwd="/elsewhere", sources=("cli", "vscode")),
    ThreadQuery(parent_id=thread_id_of(1)),
)

# Another program that works in the home: it does what each line of its input says, and answers with an empty line.
OTHER = """
import os, sys
for line in sys.stdin:
    what, path, *more = line.rstrip("\\n").split("\\t")
    if what == "put":
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "a") as file:
            file.write(more[0].replace("|", "\\n"))
    elif what == "remove":
        os.unlink(path)
    elif what == "move":
        os.makedirs(os.path.dirname(more[0]), exist_ok=True)
        os.rename(path, more[0])
    print(flush=True)
"""

Other = Callable[..., None]


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdin is not None
        assert ran.stdout is not None

        def do(what: str, path: Path, *more: object) -> None:
            assert ran.stdin is not None
            assert ran.stdout is not None
            ran.stdin.write("\t".join([what, str(path), *map(str, more)]) + "\n")
            ran.stdin.flush()
            assert ran.stdout.readline() == "\n"

        yield do
        ran.stdin.close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path, writes=True, sweep_s=0)
    yield made
    made.close()


def index_path(home: Path) -> Path:
    return home / "codex_actors" / "index.sqlite"


def is_same(index: Index, home: Path) -> bool:
    return all(index.list_threads(query) == list_threads(home, query) for query in QUERIES)


def fill(home: Path, count: int = 5) -> None:
    keep(home, 1)
    keep(home, 2, meta_line(2, cwd="/elsewhere", source="vscode") + turn_lines("Other."))
    keep(home, 3, meta_line(3, parent_thread_id=thread_id_of(1)) + turn_lines())
    keep(home, 4, archived=True)
    for number in range(5, count + 1):
        keep(home, number, "no meta" if number == 5 else None)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["create", "append", "archive", "unarchive", "remove", "rename", "segment", "name"]),
        st.integers(1, 6),
    ),
    max_size=12,
)


def change(do: Other, home: Path, what: str, number: int) -> None:
    path, archived = kept_path(home, number), kept_path(home, number, archived=True)
    parent = {"parent_thread_id": thread_id_of(1)} if number == 3 else {}
    text = (meta_line(number, **parent) + turn_lines(f"Hello {number}.")).replace("\n", "|")
    if what == "create" and not path.exists():
        do("put", path, text)
    elif what == "segment":
        do("put", kept_path(home, number, segment="_1"), text)
    elif what == "append" and path.exists():
        do("put", path, turn_lines("More.", tokens=number).replace("\n", "|"))
    elif what == "archive" and path.exists():
        do("move", path, archived)
    elif what == "unarchive" and archived.exists():
        do("move", archived, path)
    elif what == "remove" and path.exists():
        do("remove", path)
    elif what == "rename" and path.exists():
        do("move", path, kept_path(home, number, began="2027-03-02T10-00-00"))
    elif what == "name":
        append_name(home, thread_id_of(number), f"well {number}", NOW)


@settings(max_examples=40)
@given(st.lists(CHANGES, min_size=1, max_size=4))
def test_index_equals_plain_list_after_any_changes(other: Other, rounds: list[list[tuple[str, int]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        index = Index(home, writes=True, sweep_s=0)
        for changes in rounds:
            for what, number in changes:
                change(other, home, what, number)
            assert is_same(index, home)
        index.close()


@settings(max_examples=40)
@given(st.lists(CHANGES, min_size=1, max_size=4))
def test_unswept_index_knows_each_file_and_row(other: Other, rounds: list[list[tuple[str, int]]]) -> None:
    query = ThreadQuery(sort_by="created", archived=None, with_agents=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        index = Index(home, writes=False, sweep_s=3600)
        for changes in rounds:
            for what, number in changes:
                if what != "segment":
                    change(other, home, what, number)
            assert index.list_threads(query) == list_threads(home, query)
        index.close()


def test_pages_are_those_of_plain_list(tmp_path: Path, index: Index) -> None:
    fill(tmp_path, 9)
    orders: tuple[SortBy, ...] = ("created", "updated")
    for sort_by in orders:
        query = ThreadQuery(2, None, sort_by, archived=None, with_agents=True)
        page, seen = index.list_threads(query), 0
        while page.next_cursor is not None:
            seen += len(page.threads)
            query = ThreadQuery(2, page.next_cursor, sort_by, archived=None, with_agents=True)
            page = index.list_threads(query)
            assert page == list_threads(tmp_path, query)
        assert seen + len(page.threads) == 8


def test_index_file_is_its_owners_alone(tmp_path: Path, index: Index) -> None:
    fill(tmp_path)
    index.list_threads(ALL)
    files = list(index_path(tmp_path).parent.iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert index_path(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_next_index_reads_no_file_again(tmp_path: Path, index: Index) -> None:
    path = keep(tmp_path, 1)
    before = index.list_threads(ALL)
    index.close()
    stat = path.stat()
    path.write_text("x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert index.list_threads(ALL) == before
    assert list_threads(tmp_path, ALL).threads == ()


@pytest.mark.parametrize("damage", ["delete", "empty", "text", "middle", "other tables", "folder"])
@pytest.mark.parametrize("is_open", [True, False])
def test_damaged_index_answers_all_the_same(
    tmp_path: Path, index: Index, damage: str, is_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 30)
    index.list_threads(ALL)
    if not is_open:
        index.close()
    path = index_path(tmp_path)
    match damage:
        case "delete":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no database " * 4000)
        case "middle":
            data = bytearray(path.read_bytes())
            data[2000:] = b"\xff" * (len(data) - 2000)
            path.write_bytes(data)
        case "other tables":
            index.close()
            with sqlite3.connect(path) as db:
                db.execute("DROP TABLE files")
            db.close()
        case "folder":
            index.close()
            for each in path.parent.iterdir():
                each.unlink()
            path.mkdir()
    assert is_same(index, tmp_path)


def test_index_of_newer_version_is_kept(tmp_path: Path, index: Index) -> None:
    fill(tmp_path)
    index.list_threads(ALL)
    index.close()
    with sqlite3.connect(index_path(tmp_path)) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert is_same(index, tmp_path)
    with sqlite3.connect(index_path(tmp_path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


def test_index_that_another_writes_is_not_waited_for(tmp_path: Path, index: Index) -> None:
    fill(tmp_path)
    index.list_threads(ALL)
    keep(tmp_path, 20)
    db = sqlite3.connect(index_path(tmp_path), isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    assert index.list_threads(ALL) == list_threads(tmp_path, ALL)
    db.execute("ROLLBACK")
    db.close()
    assert is_same(index, tmp_path)


def test_two_indexes_of_a_home_agree(tmp_path: Path, index: Index) -> None:
    second = Index(tmp_path, writes=True, sweep_s=0)
    for number in range(1, 9):
        keep(tmp_path, number)
        assert index.list_threads(ALL) == second.list_threads(ALL) == list_threads(tmp_path, ALL)
    second.close()


@pytest.mark.parametrize("writes", [False, True])
def test_home_that_must_not_change_does_not(tmp_path: Path, writes: bool) -> None:
    fill(tmp_path)
    if writes:
        (tmp_path / "codex_actors").write_text("not a folder")
    before = tree_of(tmp_path)
    index = Index(tmp_path, writes=writes, sweep_s=0)
    assert is_same(index, tmp_path)
    assert tree_of(tmp_path) == before
    index.close()


def test_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    index = Index(tmp_path / "none", writes=True)
    assert index.list_threads(ALL) == ThreadPage((), None)
    assert not (tmp_path / "none").exists()
    keep(tmp_path / "none", 1)
    assert len(index.list_threads(ALL).threads) == 1
    index.close()


def test_growth_that_is_told_is_seen_at_once(tmp_path: Path) -> None:
    index = Index(tmp_path, writes=True, sweep_s=3600)
    old, _ = keep(tmp_path, 1, mtime_s=1_800_000_000), keep(tmp_path, 2, mtime_s=1_800_000_001)
    assert [thread.id for thread in index.list_threads(ALL).threads] == [thread_id_of(2), thread_id_of(1)]
    old.write_text(old.read_text() + turn_lines("More."))
    os.utime(old, (1_800_000_002, 1_800_000_002))
    first = index.list_threads(ThreadQuery(1), [old, tmp_path.parent / "elsewhere.jsonl"]).threads[0]
    assert first.id == thread_id_of(1)
    index.close()


def test_thread_is_found_as_in_files(tmp_path: Path, index: Index) -> None:
    fill(tmp_path)
    append_name(tmp_path, thread_id_of(4), "Fourth", NOW)
    for which in (thread_id_of(1), "Fourth", thread_id_of(2)[:-2] + "02"):
        assert index.find_thread(which) == find_thread(tmp_path, which)
    with pytest.raises(InvalidRequest, match=thread_id_of(2)):
        index.find_thread("01a2")
    with pytest.raises(ThreadNotFound):
        index.find_thread("Fifth")


def test_file_that_grows_is_found_as_it_is(tmp_path: Path) -> None:
    path = keep(tmp_path, 1)
    index = Index(tmp_path, writes=False, sweep_s=3600)
    index.list_threads(ALL)
    path.write_text(path.read_text() + turn_lines("More.", tokens=99))
    assert index.find_thread(thread_id_of(1)).tokens == 99
    index.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_closed_folder_is_named(tmp_path: Path, index: Index) -> None:
    (tmp_path / "sessions").mkdir(mode=0)
    with pytest.raises(RolloutError, match="sessions"):
        index.list_threads(ALL)
