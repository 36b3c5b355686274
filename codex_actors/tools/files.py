"""Three read-only tools for the files of one folder: `list_files`, `read_file`, `search_files`. Two more write, if asked for.

What they open is inside the folder (see `Folder`), and each output is a page that says how to read on.
"""

from __future__ import annotations

import codecs
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from codex_actors.tools.folder import Entry, Folder, Glob, Opened, Walk, kind_of
from codex_actors.tools.matcher import MATCHES_BOUND, Matcher, MatchError
from codex_actors.tools.tool import Tool, ToolError
from codex_actors.tools.writing import writing_tools

PAGE_BYTES = 32_000
"""What one output holds, but for its notes: less than the default of `ManagerConfig.tool_output_bytes`."""

LIST_BOUND = 1_000
"""Entries that `list_files` shows."""

SKIP_BYTES = 1 << 32
"""How far into a file `read_file` looks for its first line."""

SEARCH_BYTES = 1 << 28
"""What one `search_files` reads of files."""

MATCH_S = 20.0
"""How long the pattern of one `search_files` may take in all."""

_File: TypeAlias = "BufferedReader[FileIO]"

_HEAD_BYTES = 8 << 10
_BLOCK_BYTES = 1 << 20

_PATH = Field(description="Absolute, or relative to the root folder.")
_GLOB = Field(
    description="Of names below `path`: *, ?, [...] within a name, ** for any folders. Names that begin with a dot are "
    "found only by a pattern with the dot, as .github/**."
)


def file_tools(root: Path, *, write: bool = False) -> tuple[Tool[..., Any], ...]:
    """The tools `list_files`, `read_file` and `search_files` for what is in the existing folder `root`. They pickle.

    No path leads out of it, be it by `..`, by an absolute path or by a link. Only regular files are opened.

    Args:
        write: Whether `write_file` and `edit_file` come behind them. Each call of those runs alone, replaces a whole file or
            nothing, and asks for approval where the thread's `approval_policy` is `untrusted`.

    Runs in: OS threads, those that read beside each other; `search_files` matches in a child process.

    Raises:
        InvalidRequest: `root` is no existing folder.
        UnsupportedOperation: this is neither Linux nor macOS.
    """
    folder = Folder.at(root)
    files = _Files(folder)
    reading = (files.list_files, files.read_file, files.search_files)
    return (*(Tool(each, is_read_only=True) for each in reading), *(writing_tools(folder) if write else ()))


@dataclass(frozen=True, slots=True)
class _Files:
    """The docstrings of its methods are what the model is told."""

    folder: Folder

    def list_files(self, path: Annotated[str, _PATH] = ".", pattern: Annotated[str, _GLOB] = "**/*") -> str:
        """List a folder: one entry a line, sorted, files with their sizes, links with where they point.

        Links to folders are not followed; list what they point to by its own path.
        """
        with self.folder.opened(path) as place:
            names = place.names
        walk = Walk(self.folder, names, _glob_of(pattern))
        page, left_out = _Page(), 0
        for entry in walk:
            if left_out or len(page.lines) == LIST_BOUND or not page.add(_line_of(entry)):
                left_out += 1
        if left_out:
            page.note(f"{left_out:,} more; narrow them with path or pattern")
        if not page.lines:
            page.note(f"nothing in {path!r} fits {pattern!r}")
        page.note_walk(walk)
        return page.text()

    def read_file(
        self,
        path: Annotated[str, _PATH],
        first_line: Annotated[int, Field(ge=1, description="From 1.")] = 1,
        lines: Annotated[int | None, Field(ge=1, description="At most so many; null for as many as fit.")] = None,
    ) -> str:
        """Read a text file, or a part of it. Where something is left out, the last line says how to read on."""
        with self.folder.opened(path) as place, _file(place, path) as file:
            if _is_binary(file):
                raise ToolError(f"{path!r} is a binary file of {place.size:,} bytes; only text can be read")
            _to_line(file, path, first_line)
            data, count, is_cut = _read_lines(file, lines)
            left_bytes = max(0, place.size - file.tell())
            is_whole = not file.peek(1)
        text, is_clean = _decoded(data, is_cut)
        page = _Page([text] if text else [])
        last_line = first_line + count - 1
        if not is_clean:
            page.note("bytes that are not UTF-8 are shown as U+FFFD")
        if is_cut:
            page.note(f"line {last_line} is cut after {len(data):,} bytes; search_files can look into the rest of it")
        if not is_whole:
            shown = f"line {first_line} is" if count == 1 else f"lines {first_line} to {last_line} are"
            page.note(f"{shown} shown, {left_bytes:,} bytes follow; read on with first_line={last_line + 1}")
        if not data:
            page.note("the file is empty")
        return page.text()

    def search_files(
        self,
        pattern: Annotated[str, Field(description="A regular expression of Python, looked for in each line.")],
        path: Annotated[str, _PATH] = ".",
        glob: Annotated[str, _GLOB] = "**/*",
    ) -> str:
        """Search the lines of one text file, or of all below a folder; each match is shown as `path:line: text`.

        Links, binary files and files that cannot be read are skipped. A pattern that takes too long is stopped, and so is
        waiting for it at the deadline of the tool.
        """
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ToolError(f"{pattern!r} is no regular expression: {error}") from None
        with self.folder.opened(path) as place:
            entries: Iterable[Entry] = Walk(self.folder, place.names, _glob_of(glob))
            if stat.S_ISREG(place.mode):
                entries = [Entry(place.names, place.mode, place.size, None)]
        search = _Search(self.folder, SEARCH_BYTES)
        try:
            with Matcher(pattern, MATCH_S) as matcher:
                search.run(entries, matcher)
        except MatchError as error:
            raise ToolError(f"the pattern {pattern!r} {error}; simplify it, or narrow path and glob") from None
        if isinstance(entries, Walk):
            search.page.note_walk(entries)
        return search.page.text()


@dataclass(slots=True)
class _Page:
    """The lines of an output, and notes behind them, each on a line of its own."""

    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    room_bytes: int = PAGE_BYTES

    def add(self, line: str) -> bool:
        """Take the line, if there is room for it."""
        self.room_bytes -= len(line.encode("utf-8", "replace")) + 1
        if self.room_bytes >= 0:
            self.lines.append(line)
        return self.room_bytes >= 0

    def note(self, text: str) -> None:
        self.notes.append(f"…[{text}]…")

    def note_walk(self, walk: Walk) -> None:
        if walk.unreadable:
            self.note(f"folders that could not be read: {walk.unreadable:,}")
        if walk.is_cut:
            self.note("there are more entries than one walk looks at; narrow them with path")

    def text(self) -> str:
        """A page without notes is the plain text of its lines."""
        text = "\n".join(self.lines)
        if not self.notes:
            return text
        between = "\n" if text and not text.endswith("\n") else ""
        return text + between + "\n".join(self.notes)


@dataclass(slots=True)
class _Search:
    """Counts what it searched and what it skipped."""

    folder: Folder
    room_bytes: int
    page: _Page = field(default_factory=_Page)
    searched: int = 0
    binary: int = 0
    unreadable: int = 0

    def run(self, entries: Iterable[Entry], matcher: Matcher) -> None:
        why_cut = ""
        for entry in entries:
            if stat.S_ISREG(entry.mode):
                why_cut = self._search("/".join(entry.names), matcher)
            if why_cut:
                break
        if not self.page.lines:
            self.page.note(f"no line matches in {self.searched:,} files")
        if self.binary or self.unreadable:
            self.page.note(f"skipped files: {self.binary:,} binary, {self.unreadable:,} that could not be read")
        if why_cut:
            self.page.note(f"stopped after {why_cut}; narrow the pattern, path or glob")

    def _search(self, path: str, matcher: Matcher) -> str:
        """Search one file; why there is to be no other, or `""`."""
        try:
            with self.folder.opened(path) as place, _file(place, path) as file:
                if _is_binary(file):
                    self.binary += 1
                    return ""
                self.searched += 1
                return self._search_lines(_shown(path), file, matcher)
        except ToolError:
            self.unreadable += 1
            return ""

    def _search_lines(self, path: str, file: _File, matcher: Matcher) -> str:
        line, last = 1, 0
        while block := _block(file):
            for before, text in matcher.matches(block):
                if line + before == last:  # the other part of a line that two blocks share
                    continue
                last = line + before
                if len(self.page.lines) == MATCHES_BOUND or not self.page.add(f"{path}:{last}: {text}"):
                    return f"{len(self.page.lines)} matches"
            line += block.count(b"\n")
            self.room_bytes -= len(block)
            if self.room_bytes <= 0:
                return f"{SEARCH_BYTES:,} bytes"
        return ""


def _glob_of(pattern: str) -> Glob:
    return Glob(PurePosixPath(pattern).parts)


def _line_of(entry: Entry) -> str:
    name = _shown("/".join(entry.names))
    if stat.S_ISREG(entry.mode):
        return f"{name} ({entry.size:,} bytes)"
    if entry.target is not None:
        return f"{name} -> {_shown(entry.target)} (link)"
    return f"{name}/" if stat.S_ISDIR(entry.mode) else f"{name} ({kind_of(entry.mode)})"


def _shown(path: str) -> str:
    """A path on one line: what does not print stands as in a Python string."""
    return path if path.isprintable() else repr(path)


@contextmanager
def _file(place: Opened, path: str) -> Iterator[_File]:
    if not stat.S_ISREG(place.mode):
        raise ToolError(f"{path!r} is a {kind_of(place.mode)}, not a file; list_files shows what is in it")
    with BufferedReader(FileIO(place.descriptor, "rb", closefd=False), _HEAD_BYTES) as file:
        yield file


def _is_binary(file: _File) -> bool:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return b"\0" in head


def _block(file: _File) -> bytes:
    """Whole lines, but for a very long one."""
    block = file.read(_BLOCK_BYTES)
    return block if block.endswith(b"\n") else block + file.readline(_BLOCK_BYTES)


def _to_line(file: _File, path: str, wanted: int) -> None:
    """Move to the begin of the line."""
    ended = 0
    block = b""
    while ended < wanted - 1:
        start, last = file.tell(), block
        if start >= SKIP_BYTES:
            raise ToolError(f"line {wanted} of {path!r} is not in its first {SKIP_BYTES:,} bytes; no further is looked")
        block = file.read(_BLOCK_BYTES)
        if not block:
            raise _no_line(path, wanted, ended + (last[-1:] not in (b"", b"\n")))
        ends = block.count(b"\n")
        if ended + ends >= wanted - 1:
            at = -1
            for _ in range(wanted - 1 - ended):
                at = block.index(b"\n", at + 1)
            file.seek(start + at + 1)
        ended += ends
    if wanted > 1 and not file.peek(1):
        raise _no_line(path, wanted, wanted - 1)


def _no_line(path: str, wanted: int, lines: int) -> ToolError:
    return ToolError(f"{path!r} has no line {wanted}; it has {lines:,} {'line' if lines == 1 else 'lines'}")


def _read_lines(file: _File, count: int | None) -> tuple[bytes, int, bool]:
    """The lines that fit a page, how many they are, and whether the only one is cut."""
    taken: list[bytes] = []
    room = PAGE_BYTES
    while count is None or len(taken) < count:
        start = file.tell()
        line = file.readline(room)
        if not line:
            break
        if not line.endswith(b"\n") and file.peek(1):
            if not taken:
                return line, 1, True
            file.seek(start)
            break
        taken.append(line)
        room -= len(line)
    return b"".join(taken), len(taken), False


def _decoded(data: bytes, is_cut: bool) -> tuple[str, bool]:
    """The text, and whether all of it was UTF-8; of a cut line the character that is cut too is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")
    try:
        return decoder().decode(data, final=not is_cut), True
    except UnicodeDecodeError:
        return decoder("replace").decode(data, final=not is_cut), False
