"""The skills of a codex home: folders with a `SKILL.md` that tell a model how to do something.

Source: `codex-rs/core/src/skills/loader.rs`, `load_skills`; of its roots only the user's, `<codex_home>/skills`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

_MAX_DEPTH = 6
_MAX_DIRS = 2000
_MAX_FRONT_MATTER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Skill:
    """What a model is told of a skill; the rest it reads in the file at `path` itself. All text is on one line."""

    name: str
    description: str
    short_description: str | None
    path: Path


@dataclass(frozen=True, slots=True)
class SkillError:
    """A file, or folder, that could not be taken in; the others are."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class SkillsOutcome:
    """The skills by name, then path; the errors in the order of the scan."""

    skills: tuple[Skill, ...] = ()
    errors: tuple[SkillError, ...] = ()


class SkillsManager:
    """Finds the skills at first use and keeps them until `reload()`. None as home means none.

    The scan goes breadth-first through `<codex_home>/skills`: at most 6 levels below it and 2,000 folders, no names
    that begin with a dot, each folder once. Links to folders are followed, links to files are not. Of several skills
    with one name the first found counts: the shallowest, then the first by path.

    Runs in: `skills()` (its first call) and `reload()` read files, on the caller's OS thread.
    """

    def __init__(self, codex_home: Path | None) -> None:
        self._root = None if codex_home is None else Path(codex_home) / "skills"
        self._outcome: SkillsOutcome | None = None

    def skills(self) -> SkillsOutcome:
        """The skills as they were at the last scan. Never fails: what is wrong is in `errors`."""
        if self._outcome is None:
            return self.reload()
        return self._outcome

    def reload(self) -> SkillsOutcome:
        """Scan again."""
        outcome = SkillsOutcome() if self._root is None else _scan(self._root)
        self._outcome = outcome
        return outcome


class _BadSkill(Exception):
    """The text is the `SkillError`'s message."""


def _scan(root: Path) -> SkillsOutcome:
    found: dict[str, Skill] = {}
    errors: list[SkillError] = []
    for path in _skill_files(root, errors):
        try:
            skill = _read_skill(path)
        except _BadSkill as error:
            errors.append(SkillError(path, str(error)))
        else:
            found.setdefault(skill.name, skill)
    skills = sorted(found.values(), key=lambda skill: (skill.name, skill.path))
    return SkillsOutcome(tuple(skills), tuple(errors))


def _skill_files(root: Path, errors: list[SkillError]) -> Iterator[Path]:
    # os.path and not pathlib: its tests answer False where pathlib's raise, as for a folder that may not be read.
    seen = {os.path.realpath(root)}
    folders = deque([(root, 0)] if os.path.isdir(root) else [])
    while folders:
        folder, depth = folders.popleft()
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            errors.append(SkillError(folder, f"failed to read folder: {error.strerror}"))
            continue
        for name in names:
            path = folder / name
            if name == "SKILL.md" and os.path.isfile(path) and not os.path.islink(path):
                yield path
            elif depth < _MAX_DEPTH and not name.startswith(".") and os.path.isdir(path):
                real = os.path.realpath(path)
                if real in seen:
                    continue
                if len(seen) == _MAX_DIRS:
                    errors.append(SkillError(root, f"the scan stopped after {_MAX_DIRS} folders"))
                    return
                seen.add(real)
                folders.append((path, depth + 1))


def _read_skill(path: Path) -> Skill:
    import yaml  # only where there are skills: it would be a twentieth of the package's import time

    try:
        raw = yaml.safe_load(_front_matter(path))
    except OSError as error:
        raise _BadSkill(f"failed to read file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _BadSkill("failed to read file: not UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _BadSkill(f"invalid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise _BadSkill("invalid YAML: expected fields and values")
    metadata = raw.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise _BadSkill("invalid metadata: expected fields and values")
    return Skill(
        name=_required(raw, "name", 64),
        description=_required(raw, "description", 1024),
        short_description=_line(metadata or {}, "short-description", 1024, "metadata.short-description") or None,
        path=path,
    )


def _front_matter(path: Path) -> str:
    with path.open("rb") as file:
        lines = file.read(_MAX_FRONT_MATTER_BYTES).splitlines()
    closing = next((i for i, line in enumerate(islice(lines, 1, None), 1) if line.strip() == b"---"), None)
    if not lines or lines[0].removeprefix(b"\xef\xbb\xbf").strip() != b"---" or closing is None:
        raise _BadSkill("missing YAML frontmatter delimited by ---")
    return b"\n".join(lines[1:closing]).decode()


def _required(raw: dict[Any, Any], name: str, limit: int) -> str:
    value = _line(raw, name, limit, name)
    if not value:
        raise _BadSkill(f"missing field `{name}`")
    return value


def _line(raw: dict[Any, Any], name: str, limit: int, label: str) -> str | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _BadSkill(f"invalid {label}: expected text")
    text = " ".join(value.split()).encode(errors="replace").decode()  # YAML escapes can write lone surrogates
    if len(text) > limit:
        raise _BadSkill(f"invalid {label}: exceeds maximum length of {limit} characters")
    return text
