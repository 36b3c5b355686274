"""Where a project begins: the folders that count for work in one of them.

Source: `codex-rs/core/src/project_doc.rs`, `discover_project_doc_paths`.
"""

from __future__ import annotations

import os
from pathlib import Path

from codex_actors.errors import InvalidRequest


def project_folders(cwd: Path) -> tuple[Path, ...]:
    """The folders from the repository's root down to `cwd`, links resolved; `cwd` alone where no repository is around it.

    The root is the nearest folder with a `.git`, be it a folder or, as in a linked work tree, a file.

    Runs in: any OS thread; looks at some names in the file system.
    """
    # os.path and not pathlib: its tests answer False where pathlib's raise, as for a folder that may not be read.
    here = Path(os.path.realpath(cwd))
    chain: list[Path] = []
    for folder in (here, *here.parents):
        chain.append(folder)
        if os.path.exists(folder / ".git"):
            return tuple(reversed(chain))
    return (here,)


def folder_of(name: str, value: Path | str) -> Path:
    """The argument `name` as an absolute path; a relative one begins at the process's working directory.

    Raises:
        InvalidRequest: it is no path.
    """
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"{name}: {value!r} is not a path")
    return Path(value).absolute()
