"""Two tools that write the files of one folder: `write_file` and `edit_file`.

A file is replaced as a whole: what reads it meanwhile sees the old text or the new one, also after a crash.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from codex_actors.runtime.reply import in_os_thread
from codex_actors.tools.approval import Act, approve
from codex_actors.tools.folder import Folder, Place, kind_of, open_flags
from codex_actors.tools.tool import Tool, ToolContext, ToolError

WRITE_BYTES = 1 << 24
"""What a file may hold that is written or edited."""

_HEAD_BYTES = 8 << 10

_PATH = Field(description="Absolute, or relative to the root folder.")

_READ = open_flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY")
_NEW = open_flags("O_WRONLY", "O_CREAT", "O_EXCL")


def writing_tools(folder: Folder) -> tuple[Tool[..., Any], ...]:
    """The tools `write_file` and `edit_file` for what is in the folder. They pickle.

    Runs in: an OS thread per call. A call that is cancelled when it has begun to write finishes that.
    """
    writes = _Writes(folder)
    return (Tool(writes.write_file), Tool(writes.edit_file))


@dataclass(frozen=True, slots=True)
class _Writes:
    """The docstrings of its methods are what the model is told."""

    folder: Folder

    async def write_file(
        self,
        path: Annotated[str, _PATH],
        content: Annotated[str, Field(description="The whole text of the file.")],
        context: ToolContext | None = None,
    ) -> str:
        """Write a text file: create it, and folders that are missing, or replace all that is in it."""
        data = _encoded(content, "content")
        _check_size(path, len(data))
        await _check_approval(context, "write_file", path)
        return str(await in_os_thread(partial(_write, self.folder, path, data)))

    async def edit_file(
        self,
        path: Annotated[str, _PATH],
        old: Annotated[str, Field(description="The text to replace, exactly as it stands in the file.")],
        new: Annotated[str, Field(description="The text to put in its place; may be empty.")],
        replace_all: Annotated[bool, Field(description="Replace each place where `old` stands, not just one.")] = False,
        context: ToolContext | None = None,
    ) -> str:
        """Replace a piece of a text file. It must stand there exactly once, unless replace_all is true."""
        was, becomes = _encoded(old, "old"), _encoded(new, "new")
        if not was:
            raise ToolError("old is empty; give the text to replace, or use write_file for a whole file")
        if was == becomes:
            raise ToolError("old and new are the same; nothing would change")
        await _check_approval(context, "edit_file", path)
        edit = partial(_edited, path=path, old=was, new=becomes, replace_all=replace_all)
        return str(await in_os_thread(partial(_edit, self.folder, path, edit)))


async def _check_approval(context: ToolContext | None, name: str, path: str) -> None:
    if context is not None:
        await approve(context, Act((name, path), name=f"{name} of {path!r}"))


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"{name} holds {text[error.start]!r}, which is not a character of UTF-8") from None


def _check_size(path: str, size: int) -> None:
    if size > WRITE_BYTES:
        raise ToolError(f"{path!r} would have {size:,} bytes; a file that is written may have {WRITE_BYTES:,}")


def _write(folder: Folder, path: str, data: bytes) -> str:
    """Runs in: an OS thread of its own, as all below."""
    with folder.parent(path, make=True) as place:
        found = _found(place, path)
        _replace(place, path, data, found)
    return f"{'created' if found is None else 'replaced'} {'/'.join(place.names)!r} ({len(data):,} bytes)"


def _edit(folder: Folder, path: str, edited: Callable[[bytes], tuple[bytes, int]]) -> str:
    with folder.parent(path) as place:
        found = _found(place, path)
        if found is None:
            raise ToolError(f"{path!r} does not exist; write_file creates a file")
        data, count = edited(_content(place, path))
        _check_size(path, len(data))
        _replace(place, path, data, found)
    return f"edited {'/'.join(place.names)!r} in {count:,} {'place' if count == 1 else 'places'} ({len(data):,} bytes)"


def _edited(data: bytes, *, path: str, old: bytes, new: bytes, replace_all: bool) -> tuple[bytes, int]:
    """The new content, and how often `old` was there. In bytes: line ends and what is not UTF-8 stay as they are."""
    count = data.count(old)
    if not count:
        ends = b"\r\n" in data and b"\n" in old and b"\r\n" not in old
        hint = "its lines end with \\r\\n" if ends else "white space counts; read the file again"
        raise ToolError(f"old does not stand in {path!r}; {hint}")
    if count > 1 and not replace_all:
        raise ToolError(f"old stands {count:,} times in {path!r}; give more of what is around it, or set replace_all")
    return data.replace(old, new), count


def _found(place: Place, path: str) -> os.stat_result | None:
    """The regular file at the place, or None if nothing is there."""
    try:
        found = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        target = os.readlink(place.name, dir_fd=place.descriptor)
        raise ToolError(f"{path!r} is a link to {target!r}, and links are not written through; name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise ToolError(f"{path!r} is a {kind_of(found.st_mode)}, not a file; nothing was written")
    return found


def _content(place: Place, path: str) -> bytes:
    with open(os.open(place.name, _READ, dir_fd=place.descriptor), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ToolError(f"{path!r} is a {kind_of(mode)}, not a file; nothing was written")
        data = file.read(WRITE_BYTES + 1)
    if len(data) > WRITE_BYTES:
        raise ToolError(f"{path!r} has more than {WRITE_BYTES:,} bytes, which are too many to edit")
    if b"\0" in data[:_HEAD_BYTES]:
        raise ToolError(f"{path!r} is a binary file; only text can be edited")
    return data


def _replace(place: Place, path: str, data: bytes, found: os.stat_result | None) -> None:
    """Put a new file in the place of what was `found` there, with its permissions."""
    name = f".codex_actors-{secrets.token_hex(8)}.tmp"
    at = place.descriptor
    descriptor = os.open(name, _NEW, 0o644, dir_fd=at)
    try:
        with open(descriptor, "wb") as file:
            if found is not None:
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)  # as any write, it drops setuid
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if _seen(_found(place, path)) != _seen(found):
            raise ToolError(f"{path!r} was changed by somebody else meanwhile; read it again, nothing was written")
        os.rename(name, place.name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)
        raise
    os.fsync(at)


def _seen(found: os.stat_result | None) -> object:
    """Equal for a file that nobody has written or replaced."""
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
