"""What a project tells agents about itself: its `AGENTS.md` files, as the text for `Config.user_instructions`.

Nothing reads them by itself: a host asks for the text and puts it into the config. Source:
`codex-rs/core/src/project_doc.rs`, `get_user_instructions`; one file that cannot be read leaves the others in.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from codex_actors.errors import InvalidRequest
from codex_actors.services.project import folder_of, project_folders
from codex_actors.services.skills import Skill

_log = logging.getLogger(__name__)

DOC_NAMES = ("AGENTS.override.md", "AGENTS.md")
"""The first of them that a folder has counts."""

DOC_SEPARATOR = "\n\n--- project-doc ---\n\n"
"""What stands between the user's own instructions and the project's."""

MAX_DOC_BYTES = 32 * 1024
"""What a model reads of a project's documents where the host gives no other limit."""

_MAX_OWN_BYTES = 1024 * 1024
_CHARACTER_BYTES = 4


def read_user_instructions(
    cwd: Path | str,
    codex_home: Path | str | None = None,
    *,
    max_bytes: int = MAX_DOC_BYTES,
    skills: Sequence[Skill] = (),
) -> str | None:
    """The text for `Config.user_instructions` of a thread that works in `cwd`, or None where there is none.

    In this order: the user's own document in `codex_home`, trimmed; the project's, from the root of the repository (the
    nearest folder with a `.git`) down to `cwd`, without a repository of `cwd` alone; how to use `skills`. In each folder
    `AGENTS.override.md` is read if it is there, else `AGENTS.md`; links are followed.

    A document that cannot be read, or is no regular file, is left out, and bytes that are not UTF-8 become U+FFFD; of
    each the log has a warning.

    Args:
        max_bytes: Of the project's documents in all; 0 reads none. What is beyond is cut off, between two characters and
            with a warning in the log. Of the user's own document 1 MiB is read.
        skills: What `SkillsManager.skills_for(cwd)` found.

    Raises:
        InvalidRequest: an argument is wrong.

    Runs in: the caller's OS thread, which reads the files.
    """
    folder = folder_of("cwd", cwd)
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 0:
        raise InvalidRequest(f"max_bytes: {max_bytes!r} is not a whole number of bytes from 0")
    own = None if codex_home is None else _own_doc(folder_of("codex_home", codex_home))
    project = "\n\n".join(_project_docs(folder, max_bytes))
    text = DOC_SEPARATOR.join(part for part in (own, project) if part)
    return "\n\n".join(part for part in (text, _skills_section(skills)) if part) or None


def _own_doc(home: Path) -> str | None:
    """A blank override does not count here. Source: `codex-rs/core/src/config/mod.rs`, `load_instructions`."""
    for name in DOC_NAMES:
        text = _read(home / name, _MAX_OWN_BYTES)[0].strip()
        if text:
            return text
    return None


def _project_docs(cwd: Path, max_bytes: int) -> list[str]:
    texts = []
    left = max_bytes
    for folder in project_folders(cwd) if max_bytes else ():
        found = next((path for name in DOC_NAMES if _is_there(path := folder / name)), None)
        if found is None:
            continue
        if not left:
            _log.warning("%s is left out: the documents before it have all of the %d bytes", found, max_bytes)
            continue
        text, used = _read(found, left)
        if text.strip():
            texts.append(text)
            left -= used
    return texts


def _is_there(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isdir(path)


def _read(path: Path, limit: int) -> tuple[str, int]:
    """The text of a regular file, and how much of `limit` it takes: all of it where the file is cut."""
    try:
        with open(path, "rb", opener=_without_wait) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                _log.warning("%s is left out: it is no regular file", path)
                return "", 0
            content = file.read(limit + 1)
    except FileNotFoundError:
        return "", 0
    except OSError as error:
        _log.warning("%s is left out: it cannot be read (%s)", path, error.strerror)
        return "", 0
    if len(content) <= limit:
        return _decoded(path, content), len(content)
    _log.warning("%s is cut: of its %d bytes %d are read", path, status.st_size, limit)
    return _decoded(path, content[: _boundary(content, limit)]), limit


def _without_wait(path: str, flags: int) -> int:
    """A pipe that nobody writes to would hold up a plain open without an end."""
    return os.open(path, flags | os.O_NONBLOCK)


def _boundary(content: bytes, limit: int) -> int:
    """The last place up to `limit` that is not inside a character; `limit` itself where the bytes are not UTF-8."""
    for end in range(limit, max(limit - _CHARACTER_BYTES, -1), -1):
        if content[end] & 0xC0 != 0x80:
            return end
    return limit


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        _log.warning("%s is not UTF-8: what cannot be read of it became U+FFFD", path)
        return content.decode(errors="replace")


def _skills_section(skills: Sequence[Skill]) -> str | None:
    if not skills:
        return None
    lines = [
        "## Skills",
        "A skill is a file with instructions for one kind of task. These are there:",
        *(f"- {skill.name}: {skill.description} (file: {_text_of(skill.path)})" for skill in skills),
        "",
        "When the user names a skill, or a task is what its description says, read its file before you begin and do as it "
        "says, in that turn. Read what the file refers to only when a step needs it; paths in it start at its own folder. "
        "If the file cannot be read, say so and go on without it.",
    ]
    return "\n".join(lines)


def _text_of(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")
