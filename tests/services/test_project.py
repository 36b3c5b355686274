from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import InvalidRequest
from codex_actors.services.project import folder_of, project_folders


def test_folders_go_from_the_root_down(tmp_path: Path) -> None:
    deep = tmp_path / "repo" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "repo" / ".git").mkdir()
    assert project_folders(deep) == (tmp_path / "repo", tmp_path / "repo" / "a", deep)


def test_nearest_repository_counts_also_a_linked_one(tmp_path: Path) -> None:
    inner = tmp_path / "repo" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "repo" / ".git").mkdir()
    (inner / ".git").write_text("gitdir: elsewhere\n")
    assert project_folders(inner) == (inner,)


def test_without_repository_only_the_folder_counts(tmp_path: Path) -> None:
    assert project_folders(tmp_path / "not" / "there") == (tmp_path / "not" / "there",)


def test_links_are_resolved_before_the_walk(tmp_path: Path) -> None:
    (tmp_path / "repo" / "a").mkdir(parents=True)
    (tmp_path / "repo" / ".git").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "repo" / "a")
    assert project_folders(tmp_path / "link") == (tmp_path / "repo", tmp_path / "repo" / "a")


def test_relative_folder_begins_at_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of("cwd", "a") == tmp_path / "a"


@pytest.mark.parametrize("value", [None, 5, b"/x"])
def test_wrong_folder_is_named(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"cwd: .+ is not a path"):
        folder_of("cwd", value)
