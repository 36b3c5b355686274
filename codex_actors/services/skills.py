"""The skills there are: folders with a `SKILL.md` that tell a model how to do something.

Source: `codex-rs/core/src/skills/loader.rs`, `load_skills`; its system root holds skills for Codex's own tools and is left
out.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from codex_actors.services.project import folder_of, project_folders

SkillScope: TypeAlias = Literal["repo", "user", "admin"]
"""Whose a skill is: the project's, the codex home's or the machine's. Source: `SkillScope`."""

ADMIN_SKILLS_DIR = Path("/etc/codex/skills")
"""The skills of all users of a machine."""

_RANKS: dict[SkillScope, int] = {"repo": 0, "user": 1, "admin": 2}
_MAX_PROJECTS = 256
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
    scope: SkillScope = "user"


@dataclass(frozen=True, slots=True)
class SkillError:
    """A file, or folder, that could not be taken in; the others are."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class SkillsOutcome:
    """The skills by scope (repo, user, admin), name and path; the errors in the order of the scan."""

    skills: tuple[Skill, ...] = ()
    errors: tuple[SkillError, ...] = ()


class SkillsManager:
    """Finds the skills at first use and keeps them until `reload()`, for the 256 working directories asked for last.

    The roots, by rank: each `.codex/skills` from the working directory up to the root of its repository (repo),
    `<codex_home>/skills` (user; None as home means none) and `admin_dir` (admin; None means none). Of several skills with
    one name that of the first root counts. The last two stay as they are given here, so what a working directory has
    depends on nothing else.

    The scan goes breadth-first through a root: at most 6 levels below it and 2,000 folders, no names that begin with a
    dot, each folder once. Links to folders are followed, links to files are not. Of several skills of a root with one
    name the first found counts: the shallowest, then the first by path.

    Runs in: `skills()` and `skills_for()` (at first) and `reload()` read files, on the caller's OS thread.
    """

    def __init__(self, codex_home: Path | None, *, admin_dir: Path | None = ADMIN_SKILLS_DIR) -> None:
        self._user_dir = None if codex_home is None else Path(codex_home) / "skills"
        self._admin_dir = admin_dir
        self._outcomes: dict[Path | None, SkillsOutcome] = {}

    def skills(self) -> SkillsOutcome:
        """The skills that every project has, as they were at the last scan. Never fails: what is wrong is in `errors`."""
        return self._outcome(None)

    def skills_for(self, cwd: Path | str, *, force_reload: bool = False) -> SkillsOutcome:
        """The skills for work in `cwd`, as they were at the last scan, or as they are now with `force_reload`.

        What is wrong is in `errors`.

        Raises:
            InvalidRequest: `cwd` is no path.
        """
        key = folder_of("cwd", cwd)
        if force_reload:
            self._outcomes.pop(key, None)
        return self._outcome(key)

    def reload(self) -> SkillsOutcome:
        """Forget what was found, and scan again for `skills()`."""
        self._outcomes.clear()
        return self.skills()

    def _outcome(self, cwd: Path | None) -> SkillsOutcome:
        outcome = self._outcomes.pop(cwd, None)
        if outcome is None:
            outcome = _scan(self._roots(cwd))
        self._outcomes[cwd] = outcome  # at the end: the first is the one asked for longest ago
        while len(self._outcomes) > _MAX_PROJECTS:
            self._outcomes.pop(next(iter(self._outcomes)), None)
        return outcome

    def _roots(self, cwd: Path | None) -> list[tuple[Path, SkillScope]]:
        folders = () if cwd is None else project_folders(cwd)
        roots: list[tuple[Path, SkillScope]] = [(folder / ".codex" / "skills", "repo") for folder in reversed(folders)]
        if self._user_dir is not None:
            # Where the user's home is a repository, its `.codex` may be the codex home: those are the user's.
            own = os.path.realpath(self._user_dir)
            roots = [(root, scope) for root, scope in roots if os.path.realpath(root) != own]
            roots.append((self._user_dir, "user"))
        if self._admin_dir is not None:
            roots.append((self._admin_dir, "admin"))
        return roots


class _BadSkill(Exception):
    """The text is the `SkillError`'s message."""


def _scan(roots: list[tuple[Path, SkillScope]]) -> SkillsOutcome:
    found: dict[str, Skill] = {}
    errors: list[SkillError] = []
    for root, scope in roots:
        for path in _skill_files(root, errors):
            try:
                skill = _read_skill(path, scope)
            except _BadSkill as error:
                errors.append(SkillError(path, str(error)))
            else:
                found.setdefault(skill.name, skill)
    skills = sorted(found.values(), key=lambda skill: (_RANKS[skill.scope], skill.name, skill.path))
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


def _read_skill(path: Path, scope: SkillScope) -> Skill:
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
        scope=scope,
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
