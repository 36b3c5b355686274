from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ScriptedModel, ThreadId, ThreadManager
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput
from codex_actors.protocol.ops import ReviewDecision
from codex_actors.testing import no_leaks
from codex_actors.tools import writing
from codex_actors.tools.files import file_tools
from codex_actors.tools.tool import ToolContext, ToolError


class Desk:
    """A root folder with its writing tools, and a neighbour that is none of their business."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "root"
        self.outside = tmp_path / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("secret\n")
        *_, self.write_tool, self.edit_tool = file_tools(self.root, write=True)

    def write(self, path: str, content: str = "new\n", context: Any = None) -> str:
        return str(asyncio.run(self.write_tool(path, content, context)))

    def edit(self, path: str, old: str, new: str, replace_all: bool = False, context: Any = None) -> str:
        return str(asyncio.run(self.edit_tool(path, old, new, replace_all, context)))

    def put(self, name: str, content: str | bytes = "text\n") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    def outer(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.outside.iterdir()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with no_leaks():
        yield made
    assert made.outer() == {"secret.txt": "secret\n"}
    assert not [name for name in made.names() if name.endswith(".tmp")]


@dataclass
class Watcher:
    """Somebody who watches the thread, and gives the same answer to each request for approval."""

    answer: ReviewDecision
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def emit(self, msg: EventMsg) -> None:
        raise AssertionError(msg)

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        self.asked.append(command)
        return self.answer

    def context(self, **settings: Any) -> ToolContext:
        return ToolContext(
            ThreadId("0193b5b8-0000-7000-8000-000000000001"), "1", "c1", None, Config(**settings), road=self
        )


# --- the tools ---------------------------------------------------------------------------------------------------------


def test_writing_tools_come_only_when_asked_for(desk: Desk) -> None:
    assert len(file_tools(desk.root)) == 3
    made = file_tools(desk.root, write=True)
    assert [(each.name, each.is_async, each.is_read_only) for each in made[3:]] == [
        ("write_file", True, False),
        ("edit_file", True, False),
    ]
    again: Config = pickle.loads(pickle.dumps(Config(tools=made)))
    assert [each.parameters for each in again.tools] == [each.parameters for each in made]
    assert "context" not in str(made[3].parameters)


def test_model_writes_reads_and_edits_a_file(desk: Desk) -> None:
    asked = [
        ("write_file", {"path": "a/b.txt", "content": "one\ntwo\n"}),
        ("edit_file", {"path": "a/b.txt", "old": "two", "new": "zwölf"}),
        ("read_file", {"path": "a/b.txt"}),
    ]
    calls = [FunctionCall(name=name, arguments=json.dumps(given), call_id=name) for name, given in asked]
    model = ScriptedModel([calls, "done"], keep_prompts=True)
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=file_tools(desk.root, write=True))).get().thread
        assert thread.run("Write.").get(timeout=10).text == "done"
    outputs = [item.output for item in model.prompts[1].input if isinstance(item, FunctionCallOutput)]
    assert outputs == ["created 'a/b.txt' (8 bytes)", "edited 'a/b.txt' in 1 place (11 bytes)", "one\nzwölf\n"]


# --- write_file --------------------------------------------------------------------------------------------------------


def test_missing_folders_are_created_below_root(desk: Desk) -> None:
    assert desk.write("a/b/c.txt", "hello\n") == "created 'a/b/c.txt' (6 bytes)"
    assert desk.write(str(desk.root / "a/d/e.txt"), "") == "created 'a/d/e.txt' (0 bytes)"
    assert (desk.root / "a/b/c.txt").read_text() == "hello\n"
    assert desk.names() == ["a", "a/b", "a/b/c.txt", "a/d", "a/d/e.txt"]


def test_file_is_replaced_as_a_whole(desk: Desk) -> None:
    path = desk.put("a.txt", "long old text\n")
    with path.open() as reader:
        assert desk.write("a.txt", "new\n") == "replaced 'a.txt' (4 bytes)"
        assert reader.read() == "long old text\n"
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444, 0o4755])
def test_permissions_of_a_replaced_file_stay(mode: int, desk: Desk) -> None:
    desk.put("a.sh").chmod(mode)
    desk.write("a.sh")
    assert (desk.root / "a.sh").stat().st_mode & 0o7777 == mode & 0o777


def test_new_file_obeys_the_umask(desk: Desk) -> None:
    before = os.umask(0o027)
    try:
        desk.write("a.txt")
    finally:
        os.umask(before)
    assert (desk.root / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("path", ["", "/", ".", "..", "a/", "a/.", "a/.."])
def test_path_that_names_no_file_is_refused(path: str, desk: Desk) -> None:
    with pytest.raises(ToolError, match=r"does not name a file|leads out of the folder"):
        desk.write(path)
    assert desk.names() == []


def test_too_much_content_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WRITE_BYTES", 10)
    desk.put("a.txt", "x" * 10)
    desk.put("b.txt", "x" * 11)
    with pytest.raises(ToolError, match=r"'a\.txt' would have 12 bytes; a file that is written may have 10"):
        desk.write("a.txt", "é" * 6)
    with pytest.raises(ToolError, match="would have 20 bytes"):
        desk.edit("a.txt", "x", "yy", replace_all=True)
    with pytest.raises(ToolError, match=r"'b\.txt' has more than 10 bytes"):
        desk.edit("b.txt", "x", "y")


def test_text_that_is_no_utf8_is_refused(desk: Desk) -> None:
    with pytest.raises(ToolError, match=r"content holds .*not a character"):
        desk.write("a.txt", "a\ud800b")
    assert desk.names() == []


# --- no way out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("../x.txt", "../outside/secret.txt", "a/../../outside/x.txt", "/x.txt", "../new/x.txt", "../root2/x.txt"),
        *("folder-out/x.txt", "folder-out/new/x.txt", "a/up/outside/x.txt", "folder-out/secret.txt", "gone-out/x.txt"),
    ],
)
def test_nothing_is_written_outside_the_root(path: str, desk: Desk) -> None:
    desk.put("a/b.txt")
    (desk.root / "folder-out").symlink_to(desk.outside)
    (desk.root / "gone-out").symlink_to(desk.outside / "new")
    (desk.root / "a/up").symlink_to("../..")
    before = desk.names()
    for make in (desk.write, lambda path: desk.edit(path, "secret", "x")):
        with pytest.raises(ToolError, match=r"leads out of the folder .*only what is in it can be reached"):
            make(path)
    assert desk.names() == before
    assert not (desk.root.parent / "x.txt").exists()


def test_links_to_folders_inside_may_be_used(desk: Desk) -> None:
    desk.put("a/b.txt")
    (desk.root / "link").symlink_to("a")
    assert desk.write("link/b.txt") == "replaced 'a/b.txt' (4 bytes)"
    assert desk.write("link/new/c.txt") == "created 'a/new/c.txt' (4 bytes)"


@pytest.mark.parametrize("target", ["a.txt", "../outside/secret.txt", "missing"])
def test_link_is_not_written_through(target: str, desk: Desk) -> None:
    desk.put("a.txt")
    (desk.root / "link").symlink_to(target)
    for make in (desk.write, lambda path: desk.edit(path, "text", "x")):
        with pytest.raises(ToolError, match=f"'link' is a link to '{target}', and links are not written through"):
            make("link")
    assert desk.names() == ["a.txt", "link"]
    assert (desk.root / "a.txt").read_text() == "text\n"


def test_folder_that_becomes_a_link_leads_nowhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder is swapped for a link to the outside between the look at it and its opening.
    desk.put("a/secret.txt", "inside\n")
    real_readlink = os.readlink

    def swapping(path: Any, **where: Any) -> str:
        try:
            return real_readlink(path, **where)
        finally:
            if path == "a" and not (desk.root / "a").is_symlink():
                (desk.root / "a").rename(desk.root / "b")
                (desk.root / "a").symlink_to(desk.outside)

    monkeypatch.setattr(os, "readlink", swapping)
    with pytest.raises(ToolError, match=r"cannot reach 'a/secret\.txt'"):
        desk.write("a/secret.txt")
    assert (desk.root / "b/secret.txt").read_text() == "inside\n"


def test_link_in_place_of_a_new_folder_leads_nowhere(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real_mkdir = os.mkdir

    def swapping(path: Any, *more: Any, **where: Any) -> None:
        real_mkdir(path, *more, **where)
        (desk.root / path).rmdir()
        (desk.root / path).symlink_to(desk.outside)

    monkeypatch.setattr(os, "mkdir", swapping)
    with pytest.raises(ToolError, match=r"cannot reach 'a/x\.txt'"):
        desk.write("a/x.txt")


# --- what is no file ---------------------------------------------------------------------------------------------------


def test_folders_and_pipes_are_not_written(desk: Desk) -> None:
    (desk.root / "folder").mkdir()
    os.mkfifo(desk.root / "pipe")
    for name in ("folder", "pipe"):
        for make in (desk.write, lambda path: desk.edit(path, "a", "b")):
            with pytest.raises(ToolError, match=f"'{name}' is a {name}, not a file; nothing was written"):
                make(name)


def test_file_in_the_way_of_a_folder_is_said(desk: Desk) -> None:
    desk.put("a.txt")
    with pytest.raises(ToolError, match=r"cannot reach 'a\.txt/b\.txt' in the folder .*: Not a directory"):
        desk.write("a.txt/b.txt")


UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
from codex_actors.tools.files import file_tools
from codex_actors.tools.tool import ToolError
*_, write_file, edit_file = file_tools(Path(sys.argv[1]), write=True)
write_file.call('{"path": "first.txt", "content": ""}', None).close()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for call in (write_file("locked/a.txt", "x"), write_file("locked/new/a.txt", "x"), edit_file("a.txt", "text", "x")):
    try:
        asyncio.run(call)
    except ToolError as error:
        print(error)
"""


def test_what_may_not_be_written_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root").resolve()
    (root / "a.txt").write_text("text")
    (root / "locked").mkdir()
    for folder in (root / "locked", root):
        folder.chmod(0o555)
    for folder in (root.parent, root.parent.parent):
        folder.chmod(0o755)
    ran = subprocess.run([sys.executable, "-c", UNPRIVILEGED, root], capture_output=True, text=True, timeout=60)
    for folder in (root, root / "locked"):
        folder.chmod(0o755)
    assert ran.stderr == ""
    assert [line.partition(" in the folder ")[0] for line in ran.stdout.splitlines()] == [
        "cannot write 'locked/a.txt'",
        "cannot reach 'locked/new/a.txt'",
        "cannot write 'a.txt'",
    ]
    assert (root / "a.txt").read_text() == "text"


# --- edit_file ---------------------------------------------------------------------------------------------------------


def test_edit_replaces_exactly_one_place(desk: Desk) -> None:
    path = desk.put("a.py", "def a():\n    return 1\n\ndef b():\n    return 1\n")
    assert (
        desk.edit("a.py", "def b():\n    return 1", "def b():\n    return 2") == "edited 'a.py' in 1 place (45 bytes)"
    )
    assert path.read_text() == "def a():\n    return 1\n\ndef b():\n    return 2\n"


def test_edit_of_several_places_must_be_meant(desk: Desk) -> None:
    path = desk.put("a.txt", "a b a b a")
    with pytest.raises(ToolError, match=r"old stands 3 times in 'a\.txt'; give more of what is around it, or set repl"):
        desk.edit("a.txt", "a", "c")
    assert path.read_text() == "a b a b a"
    assert desk.edit("a.txt", "a ", "", replace_all=True) == "edited 'a.txt' in 2 places (5 bytes)"
    assert path.read_text() == "b b a"


@pytest.mark.parametrize(
    ("content", "old", "new", "text"),
    [
        ("abc", "x", "y", r"old does not stand in 'a\.txt'; white space counts; read the file again"),
        ("a\r\nb\r\n", "a\nb", "y", r"old does not stand in 'a\.txt'; its lines end with \\r\\n"),
        ("abc", "", "y", "old is empty; give the text to replace, or use write_file"),
        ("abc", "a", "a", "old and new are the same; nothing would change"),
        (b"a\0b", "a", "b", r"'a\.txt' is a binary file; only text can be edited"),
    ],
)
def test_edit_that_fits_nowhere_says_why(content: str | bytes, old: str, new: str, text: str, desk: Desk) -> None:
    path = desk.put("a.txt", content)
    before = path.read_bytes()
    with pytest.raises(ToolError, match=text):
        desk.edit("a.txt", old, new)
    assert path.read_bytes() == before


def test_edit_of_a_missing_file_is_refused(desk: Desk) -> None:
    with pytest.raises(ToolError, match=r"'a\.txt' does not exist; write_file creates a file"):
        desk.edit("a.txt", "a", "b")
    with pytest.raises(ToolError, match=r"cannot reach 'b/a\.txt' in the folder .*: No such file"):
        desk.edit("b/a.txt", "a", "b")


def test_rest_of_an_edited_file_stays(desk: Desk) -> None:
    path = desk.put("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\xff latin\n")
    desk.edit("a.txt", "two", "zwei")
    assert path.read_bytes() == b"\xef\xbb\xbfone\r\nzwei\r\n\xff latin\n"


def test_file_changed_meanwhile_is_left_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk.put("a.txt", "one\n")
    real_fsync = os.fsync

    def slow(descriptor: int) -> None:
        path.write_text("by somebody else\n")
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(ToolError, match=r"'a\.txt' was changed by somebody else meanwhile; read it again"):
        desk.edit("a.txt", "one", "two")
    assert path.read_text() == "by somebody else\n"
    assert desk.names() == ["a.txt"]


def test_full_disk_leaves_the_old_file(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = desk.put("a.txt", "old\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ToolError, match=r"cannot write 'a\.txt' in the folder .*: No space left on device"):
        desk.write("a.txt")
    assert (path.read_text(), desk.names()) == ("old\n", ["a.txt"])


# --- approval, and the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["approved", "approved_for_session"])
def test_untrusted_write_asks_and_may_go_on(answer: ReviewDecision, desk: Desk) -> None:
    watcher = Watcher(answer)
    context = watcher.context(approval_policy="untrusted")
    desk.write("a.txt", "one\n", context)
    desk.edit("a.txt", "one", "two", context=context)
    assert watcher.asked == [("write_file", "a.txt"), ("edit_file", "a.txt")]
    assert (desk.root / "a.txt").read_text() == "two\n"


@pytest.mark.parametrize("answer", ["denied", "abort"])
def test_untrusted_write_without_a_yes_does_nothing(answer: ReviewDecision, desk: Desk) -> None:
    context = Watcher(answer).context(approval_policy="untrusted")
    with pytest.raises(ToolError, match=r"write_file of 'b/a\.txt' rejected by user"):
        desk.write("b/a.txt", context=context)
    assert desk.names() == []


@pytest.mark.parametrize("policy", ["on-request", "never"])
def test_other_policies_write_without_asking(policy: str, desk: Desk) -> None:
    watcher = Watcher("denied")
    desk.write("a.txt", context=watcher.context(approval_policy=policy))
    assert watcher.asked == []


def test_file_work_leaves_the_loop_free(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(writing, "_write", lambda *_: seen.append(threading.get_ident()))
    desk.write("a.txt")
    assert seen != [threading.get_ident()]
