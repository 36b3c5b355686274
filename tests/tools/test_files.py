from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codex_actors.config import Config
from codex_actors.errors import InvalidRequest
from codex_actors.testing import no_leaks
from codex_actors.tools import files
from codex_actors.tools.files import LIST_BOUND, PAGE_BYTES, file_tools
from codex_actors.tools.tool import ToolError


class Desk:
    """A root folder with its tools, and a neighbour that is none of their business."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "root"
        self.outside = tmp_path / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("secret\n")
        self.list, self.read, self.search = file_tools(self.root)

    def write(self, name: str, content: str | bytes = "text\n") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def link(self, name: str, target: Path | str) -> None:
        (self.root / name).symlink_to(target)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with no_leaks():
        yield Desk(tmp_path)


def lines(text: Any) -> list[str]:
    return str(text).splitlines()


# --- the root ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["missing", "file", "text"])
def test_root_must_be_an_existing_folder(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="root: "):
        file_tools(str(tmp_path) if root == "text" else tmp_path / root)  # type: ignore[arg-type]


def test_root_may_be_reached_by_a_link(tmp_path: Path, desk: Desk) -> None:
    desk.write("a.txt", "hello\n")
    (tmp_path / "alias").symlink_to(desk.root)
    _, read, _ = file_tools(tmp_path / "alias")
    assert read("a.txt") == read(str(tmp_path / "alias/a.txt")) == read(str(desk.root / "a.txt")) == "hello\n"


def test_file_tools_read_only_and_pickle(desk: Desk) -> None:
    desk.write("a.txt", "hello\n")
    made = Config(tools=file_tools(desk.root)).tools
    assert [(each.name, each.is_async, each.is_read_only) for each in made] == [
        ("list_files", False, True),
        ("read_file", False, True),
        ("search_files", False, True),
    ]
    again: Config = pickle.loads(pickle.dumps(Config(tools=made)))
    assert again.tools[1].call('{"path": "a.txt"}', None) == "hello\n"
    assert [each.parameters for each in again.tools] == [each.parameters for each in made]
    assert "as .github/**" in str(made[0].parameters)


# --- no way out --------------------------------------------------------------------------------------------------------


def every_tool(desk: Desk) -> list[Any]:
    return [desk.list, desk.read, lambda path: desk.search("secret", path)]


@pytest.mark.parametrize(
    "path",
    [
        *("..", "../outside", "../outside/secret.txt", "a/../../outside/secret.txt", "/", "/etc/passwd", "../root2"),
        *("file-out", "folder-out", "folder-out/secret.txt", "chain", "a/up/outside/secret.txt", "relative-out"),
        *("//etc/passwd", "./../outside", "folder-out/../outside/secret.txt"),
    ],
)
def test_no_path_leads_out_of_the_root(path: str, desk: Desk) -> None:
    desk.write("a/b.txt")
    desk.link("file-out", desk.outside / "secret.txt")
    desk.link("folder-out", desk.outside)
    desk.link("relative-out", "../outside/secret.txt")
    desk.link("link", "file-out")
    desk.link("chain", "link")
    desk.link("a/up", "../..")
    for made in every_tool(desk):
        with pytest.raises(ToolError, match="leads out of the folder") as caught:
            made(path)
        assert repr(path) in str(caught.value)
        assert str(desk.root) in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "a/b.txt",
        "a/../a/b.txt",
        "./a//b.txt",
        "link",
        "chain",
        "folder/b.txt",
        "back",
        "a/self/b.txt",
        "../root/a/b.txt",
    ],
)
def test_links_that_stay_inside_work(path: str, desk: Desk) -> None:
    absolute = desk.write("a/b.txt", "inside\n")
    desk.link("link", "a/b.txt")
    desk.link("chain", "link")
    desk.link("folder", desk.root / "a")
    desk.link("back", "../root/a/b.txt")
    desk.link("a/self", "../a")
    assert desk.read(path) == desk.read(str(absolute)) == "inside\n"
    assert desk.search("inside", path) == "a/b.txt:1: inside"


def test_link_that_replaces_a_folder_leads_nowhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder is swapped for a link to the outside between the look at it and its opening.
    desk.write("a/secret.txt", "inside\n")
    real_readlink = os.readlink

    def swapping(path: Any, **where: Any) -> str:
        try:
            return real_readlink(path, **where)
        finally:
            if path == "a" and not (desk.root / "a").is_symlink():
                (desk.root / "a").rename(desk.root / "b")
                desk.link("a", desk.outside)

    monkeypatch.setattr(os, "readlink", swapping)
    with pytest.raises(ToolError, match=r"cannot read 'a/secret\.txt'"):
        desk.read("a/secret.txt")


def test_link_loops_end(desk: Desk) -> None:
    desk.link("a", "b")
    desk.link("b", "a")
    desk.link("self", "self/x")
    for path in ("a", "b/c", "self"):
        with pytest.raises(ToolError, match=r"cannot read .*(symbolic links|symlink)"):
            desk.read(path)


# --- what is no file ---------------------------------------------------------------------------------------------------


def test_pipes_and_sockets_are_refused_at_once(desk: Desk) -> None:
    os.mkfifo(desk.root / "pipe")
    desk.link("to-pipe", "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(desk.root / "socket"))
        for made in every_tool(desk):
            for path in ("pipe", "to-pipe"):
                with pytest.raises(ToolError, match=rf"'{path}' is a pipe"):
                    made(path)
            with pytest.raises(ToolError, match="'socket' is a socket"):
                made("socket")
        assert lines(desk.list()) == ["pipe (pipe)", "socket (socket)", "to-pipe -> pipe (link)"]
        assert desk.search("x") == "…[no line matches in 0 files]…"


def test_pipe_that_replaces_a_file_does_not_block(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a")
    real_stat = os.stat

    def swapping(path: Any, **where: Any) -> os.stat_result:
        found = real_stat(path, **where)
        if path == "a":
            (desk.root / "a").unlink()
            os.mkfifo(desk.root / "a")
        return found

    monkeypatch.setattr(os, "stat", swapping)
    with pytest.raises(ToolError, match="'a' is a pipe"):
        desk.read("a")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("missing", "cannot read 'missing' in the folder .*: No such file"),
        ("a.txt/b", "cannot read 'a.txt/b' in the folder .*: Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null character" if sys.version_info >= (3, 13) else "null byte"),
        ("sub", "'sub' is a folder, not a file; list_files shows"),
    ],
)
def test_what_cannot_be_read_is_said(path: str, text: str, desk: Desk) -> None:
    desk.write("a.txt")
    desk.write("sub/b.txt")
    with pytest.raises(ToolError, match=text):
        desk.read(path)


def test_file_that_cannot_be_opened_is_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("a", "find\n")
    desk.write("b", "find\n")
    real_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **where: real_stat(path if path != "a" else "gone", **where))
    assert lines(desk.search("find")) == ["b:1: find", "…[skipped files: 0 binary, 1 that could not be read]…"]


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from codex_actors.tools.files import file_tools
from codex_actors.tools.tool import ToolError
list_files, read_file, _ = file_tools(Path(sys.argv[1]))
list_files.call("{}", None)  # what is imported late must be: the libraries may lie where only root can read
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for path in ("locked.txt", "locked/a.txt"):
    try:
        read_file(path)
    except ToolError as error:
        print(error)
print(read_file("passage/a.txt"), end="")
print(list_files())
"""


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only with O_PATH is a folder walked through that cannot be read")
def test_what_may_not_be_read_is_said() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for name, mode in (("locked", 0), ("passage", 0o111)):
            (root / name).mkdir()
            (root / name / "a.txt").write_text("text\n")
            (root / name).chmod(mode)
        (root / "locked.txt").touch(mode=0)
        root.chmod(0o755)
        command = [sys.executable, "-c", UNPRIVILEGED, folder]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        for name in ("locked", "passage"):
            (root / name).chmod(0o755)
    assert ran.stderr == ""
    assert lines(ran.stdout) == [
        f"cannot read 'locked.txt' in the folder {str(root)!r}: Permission denied",
        f"cannot read 'locked/a.txt' in the folder {str(root)!r}: Permission denied",
        *("text", "locked/", "locked.txt (0 bytes)", "passage/"),
        "…[folders that could not be read: 2]…",
    ]


# --- read_file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["one\n", "one", "a\r\nb\r\n", "\n", "zwölf €\n", "\ufeffmark\n", "x" * PAGE_BYTES])
def test_small_file_is_read_as_it_is(content: str, desk: Desk) -> None:
    desk.write("a.txt", content)
    assert desk.read("a.txt") == content


@pytest.mark.parametrize(
    ("first_line", "count", "text"),
    [
        (1, 2, "a\nb\n…[lines 1 to 2 are shown, 4 bytes follow; read on with first_line=3]…"),
        (2, 1, "b\n…[line 2 is shown, 4 bytes follow; read on with first_line=3]…"),
        (3, None, "c\nd\n"),
        (3, 9, "c\nd\n"),
        (4, 1, "d\n"),
    ],
)
def test_part_of_a_file_says_how_to_read_on(first_line: int, count: int | None, text: str, desk: Desk) -> None:
    desk.write("a.txt", "a\nb\nc\nd\n")
    assert desk.read("a.txt", first_line, count) == text


@pytest.mark.parametrize(
    ("content", "count"), [("a\nb\n", "2 lines"), ("a\nb", "2 lines"), ("a", "1 line"), ("", "0 lines")]
)
def test_line_behind_the_end_is_refused(content: str, count: str, desk: Desk) -> None:
    desk.write("a.txt", content)
    with pytest.raises(ToolError, match=f"'a.txt' has no line 3; it has {count}$"):
        desk.read("a.txt", 3)


def test_pages_together_are_the_whole_file(desk: Desk) -> None:
    content = "".join(f"line {number} {'é' * (number % 50)}\n" for number in range(5_000))
    desk.write("a.txt", content)
    pages, first_line = [], 1
    while True:
        *page, last = str(desk.read("a.txt", first_line)).splitlines(keepends=True)
        if not last.startswith("…["):
            pages += [*page, last]
            break
        pages += page
        first_line = int(last.rpartition("first_line=")[2].removesuffix("]…"))
    assert "".join(pages) == content


def test_huge_line_is_cut_between_characters(desk: Desk) -> None:
    desk.write("a.txt", "x" + "é" * PAGE_BYTES + "\nsecond\n")
    text, *notes = lines(desk.read("a.txt"))
    assert text == "x" + "é" * (PAGE_BYTES // 2 - 1)
    assert notes == [
        f"…[line 1 is cut after {PAGE_BYTES:,} bytes; search_files can look into the rest of it]…",
        f"…[line 1 is shown, {PAGE_BYTES + 9:,} bytes follow; read on with first_line=2]…",
    ]
    assert desk.read("a.txt", 2) == "second\n"


def test_gigabyte_file_costs_little_memory(desk: Desk) -> None:
    path = desk.write("a.txt", "first\n" * 10_000)
    os.truncate(path, 1 << 30)
    tracemalloc.start()
    try:
        assert "1,073,709,8" in str(desk.read("a.txt"))
        assert str(desk.read("a.txt", 9_999, 2)).startswith("first\nfirst\n…[")
        with pytest.raises(ToolError, match="has no line 20000; it has 10,001 lines"):
            desk.read("a.txt", 20_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_line_far_behind_is_not_looked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SKIP_BYTES", 1 << 20)
    desk.write("a.txt", "x" * (2 << 20))
    with pytest.raises(ToolError, match=r"line 2 of 'a\.txt' is not in its first 1,048,576 bytes"):
        desk.read("a.txt", 2)


def test_binary_files_are_refused_with_their_size(desk: Desk) -> None:
    path = desk.write("a.bin", b"text\0more")
    with pytest.raises(ToolError, match=r"'a\.bin' is a binary file of 9 bytes"):
        desk.read("a.bin")
    os.truncate(path, 1 << 30)
    with pytest.raises(ToolError, match="of 1,073,741,824 bytes"):
        desk.read("a.bin", 7)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"a\xffb\n", "a\ufffdb\n"), (b"cut \xe2\x82", "cut \ufffd\n"), (b"\xed\xa0\x80\n", "\ufffd\ufffd\ufffd\n")],
)
def test_invalid_utf8_is_shown_and_said(content: bytes, text: str, desk: Desk) -> None:
    desk.write("a.txt", content)
    assert desk.read("a.txt") == f"{text}…[bytes that are not UTF-8 are shown as U+FFFD]…"


def test_empty_file_is_said_to_be_empty(desk: Desk) -> None:
    desk.write("a.txt", "")
    assert desk.read("a.txt") == "…[the file is empty]…"


# --- list_files --------------------------------------------------------------------------------------------------------


def test_list_is_sorted_with_sizes_and_links(desk: Desk) -> None:
    for name in ("b/c.txt", "b/a/deep.py", "a.txt", ".hidden", ".git/config", "b-side.txt"):
        desk.write(name)
    desk.link("cycle", ".")
    desk.link("b/out", desk.outside)
    assert lines(desk.list()) == [
        "a.txt (5 bytes)",
        "b/",
        "b/a/",
        "b/a/deep.py (5 bytes)",
        "b/c.txt (5 bytes)",
        f"b/out -> {desk.outside} (link)",
        "b-side.txt (5 bytes)",
        "cycle -> . (link)",
    ]
    assert lines(desk.list("cycle/b", "*")) == ["b/a/", "b/c.txt (5 bytes)", f"b/out -> {desk.outside} (link)"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["a.py", "sub/"]),
        ("**", ["a.py", "sub/", "sub/b.py", "sub/c.txt", "sub/deep/", "sub/deep/d.py"]),
        ("**/*.py", ["a.py", "sub/b.py", "sub/deep/d.py"]),
        ("*/*.py", ["sub/b.py"]),
        ("sub/**/?.py", ["sub/b.py", "sub/deep/d.py"]),
        ("**/deep/**", ["sub/deep/", "sub/deep/d.py"]),
        ("[ab].py", ["a.py"]),
        (".*/**", [".dot/", ".dot/e.py"]),
        ("**/**/d.py", ["sub/deep/d.py"]),
        ("../*", ["…[nothing in '.' fits '../*']…"]),
        ("", ["…[nothing in '.' fits '']…"]),
    ],
)
def test_patterns_choose_names_as_in_a_shell(pattern: str, names: list[str], desk: Desk) -> None:
    for name in ("a.py", "sub/b.py", "sub/c.txt", "sub/deep/d.py", ".dot/e.py"):
        desk.write(name)
    assert [line.removesuffix(" (5 bytes)") for line in lines(desk.list(".", pattern))] == names


def test_huge_folder_is_listed_in_part(desk: Desk) -> None:
    for number in range(LIST_BOUND + 50):
        (desk.root / f"{number:05}").touch()
    *shown, note = lines(desk.list())
    assert shown == [f"{number:05} (0 bytes)" for number in range(LIST_BOUND)]
    assert note == "…[50 more; narrow them with path or pattern]…"


def test_long_names_fill_a_page_earlier(desk: Desk) -> None:
    for number in range(300):
        (desk.root / f"{number:0200}").touch()
    text = str(desk.list())
    assert len(text.encode()) <= PAGE_BYTES + 100
    assert lines(text)[-1] == f"…[{300 - len(lines(text)) + 1} more; narrow them with path or pattern]…"


def test_endless_walk_is_cut_and_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codex_actors.tools.folder.WALK_BOUND", 3)
    for name in "abcdef":
        desk.write(name)
    note = "…[there are more entries than one walk looks at; narrow them with path]…"
    assert lines(desk.list())[-1] == note
    assert lines(desk.search("nothing"))[-1] == note


def test_deep_tree_needs_few_descriptors(desk: Desk) -> None:
    resource = pytest.importorskip("resource")
    desk.write("d/" * 200 + "leaf")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        assert desk.list(".", "**/leaf") == "d/" * 200 + "leaf (5 bytes)"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_names_that_do_not_print_stay_on_a_line(desk: Desk) -> None:
    desk.write("two\nlines")
    assert lines(desk.list()) == [r"'two\nlines' (5 bytes)"]


def test_list_of_a_file_is_refused(desk: Desk) -> None:
    desk.write("a.txt")
    with pytest.raises(ToolError, match=r"'a\.txt' is a file, not a folder"):
        desk.list("a.txt")


# --- search_files ------------------------------------------------------------------------------------------------------


def test_matches_are_shown_with_path_and_line(desk: Desk) -> None:
    desk.write("b/two.txt", "nothing\r\nfind me\r\n")
    desk.write("a.py", "def find():\n    pass\n\nfind()")
    desk.link("again", "a.py")
    assert lines(desk.search(r"find\b")) == ["a.py:1: def find():", "a.py:4: find()", "b/two.txt:2: find me"]
    assert lines(desk.search("find", ".", "**/*.txt")) == ["b/two.txt:2: find me"]
    assert lines(desk.search("find", "b")) == ["b/two.txt:2: find me"]
    assert lines(desk.search("^find", "a.py")) == ["a.py:4: find()"]
    assert desk.search("absent") == "…[no line matches in 2 files]…"


def test_binary_files_are_skipped_and_counted(desk: Desk) -> None:
    desk.write("a.bin", b"find\0")
    desk.write("b.txt", b"find \xff\n")
    assert lines(desk.search("find")) == [
        "b.txt:1: find \ufffd",
        "…[skipped files: 1 binary, 0 that could not be read]…",
    ]


def test_matches_are_bounded(desk: Desk) -> None:
    desk.write("a.txt", "find\n" * 1_000)
    desk.write("b.txt", "find\n")
    *found, note = lines(desk.search("find"))
    assert found == [f"a.txt:{number}: find" for number in range(1, 201)]
    assert note == "…[stopped after 200 matches; narrow the pattern, path or glob]…"


def test_huge_lines_are_searched_and_shown_in_part(desk: Desk) -> None:
    desk.write("a.txt", "first\n" + "x" * (3 << 20) + "find me" + "y" * (1 << 20) + "\nlast find\n")
    middle, last = lines(desk.search("find"))
    assert middle.startswith("a.txt:2: …x")
    assert "find me" in middle
    assert len(middle) < 400
    assert last == "a.txt:3: last find"


def test_search_ends_after_so_many_bytes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SEARCH_BYTES", 10)
    desk.write("a.txt", "x" * 20)
    desk.write("b.txt", "find")
    assert lines(desk.search("find"))[-1] == "…[stopped after 10 bytes; narrow the pattern, path or glob]…"


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "a{99999999999}", "[z-a]", "(?P<n>a)(?P<n>b)"])
def test_bad_expression_is_refused_with_its_reason(pattern: str, desk: Desk) -> None:
    with pytest.raises(ToolError, match="is no regular expression: "):
        desk.search(pattern)


def test_catastrophic_pattern_is_stopped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MATCH_S", 0.2)
    desk.write("a.txt", "a" * 60 + "b\n")
    with pytest.raises(ToolError, match=r"the pattern '\(a\+\)\+\$' takes more than 0\.2 s; simplify it"):
        desk.search("(a+)+$")
    assert desk.search("b$") == "a.txt:1: " + "a" * 60 + "b"
