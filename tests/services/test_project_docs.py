from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest
from codex_actors.services.project_docs import DOC_SEPARATOR, read_user_instructions
from codex_actors.services.skills import Skill

needs_no_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "a" / "b").mkdir(parents=True)
    return tmp_path / "repo"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def doc(folder: Path, content: str | bytes, name: str = "AGENTS.md") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_folder_without_documents_has_none(repo: Path, home: Path) -> None:
    assert read_user_instructions(repo, home) is None
    assert read_user_instructions(repo / "nowhere", home / "nowhere") is None


def test_documents_are_joined_root_first(repo: Path) -> None:
    doc(repo.parent, "outside")
    doc(repo, "root")
    doc(repo / "a" / "b", "deep\n")
    assert read_user_instructions(repo / "a" / "b") == "root\n\ndeep\n"
    assert read_user_instructions(str(repo / "a")) == "root"


def test_without_repository_only_cwd_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    doc(tmp_path, "parent")
    doc(tmp_path / "a", "own")
    assert read_user_instructions(tmp_path / "a") == "own"


def test_override_takes_the_place_of_its_neighbour(repo: Path) -> None:
    doc(repo, "root")
    doc(repo / "a", "shared")
    doc(repo / "a", "mine", "AGENTS.override.md")
    assert read_user_instructions(repo / "a") == "root\n\nmine"


def test_users_own_document_stands_in_front(repo: Path, home: Path) -> None:
    doc(home, "\n own \n")
    assert read_user_instructions(repo, home) == "own"
    doc(repo, "project")
    assert read_user_instructions(repo, home) == f"own{DOC_SEPARATOR}project"
    assert DOC_SEPARATOR == "\n\n--- project-doc ---\n\n"


def test_blank_override_of_the_user_does_not_count(repo: Path, home: Path) -> None:
    doc(home, "own")
    doc(home, " \n", "AGENTS.override.md")
    assert read_user_instructions(repo, home) == "own"
    doc(home, "override", "AGENTS.override.md")
    assert read_user_instructions(repo, home) == "override"


def test_blank_documents_are_left_out(repo: Path) -> None:
    doc(repo, " \n\n")
    doc(repo / "a", "text")
    assert read_user_instructions(repo / "a") == "text"


def test_limit_counts_over_all_documents(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    doc(repo, "12345678")
    doc(repo / "a", "ab")
    assert read_user_instructions(repo / "a", max_bytes=10) == "12345678\n\nab"
    assert not caplog.records
    assert read_user_instructions(repo / "a", max_bytes=9) == "12345678\n\na"
    assert "AGENTS.md is cut: of its 2 bytes 1 are read" in caplog.text
    assert read_user_instructions(repo / "a", max_bytes=8) == "12345678"
    assert f"{repo / 'a' / 'AGENTS.md'} is left out: the documents before it have all of the 8 bytes" in caplog.text


def test_limit_of_zero_reads_no_project(repo: Path, home: Path) -> None:
    doc(repo, "project")
    assert read_user_instructions(repo, max_bytes=0) is None
    doc(home, "own")
    assert read_user_instructions(repo, home, max_bytes=0) == "own"


def test_default_limit_is_32_kib(repo: Path) -> None:
    doc(repo, "x" * 40_000)
    assert read_user_instructions(repo) == "x" * 32_768


@given(text=st.text("aé€\U0001f4a1", min_size=1, max_size=12), limit=st.integers(1, 50))
def test_cut_is_between_two_characters(tmp_path_factory: pytest.TempPathFactory, text: str, limit: int) -> None:
    folder = tmp_path_factory.mktemp("project")
    doc(folder, text)
    read = read_user_instructions(folder, max_bytes=limit) or ""
    assert text.startswith(read)
    assert len(read.encode()) <= limit
    assert len(read) == len(text) or len(text[: len(read) + 1].encode()) > limit


def test_cut_document_leaves_nothing_to_the_next(repo: Path) -> None:
    doc(repo, "ab€€")
    doc(repo / "a", "next")
    assert read_user_instructions(repo / "a", max_bytes=7) == "ab€"


def test_large_document_of_the_user_is_cut(repo: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    doc(home, "x" * 1_100_000)
    assert read_user_instructions(repo, home) == "x" * 1_048_576
    assert "is cut: of its 1100000 bytes" in caplog.text


def test_bad_bytes_become_replacement_characters(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = doc(repo, b"a\xffb")
    assert read_user_instructions(repo) == "a\ufffdb"
    assert f"{path} is not UTF-8" in caplog.text
    doc(repo, b"\x80" * 20)
    assert read_user_instructions(repo, max_bytes=10) == "\ufffd" * 10


def test_linked_documents_are_followed(repo: Path) -> None:
    (repo / "AGENTS.md").symlink_to(doc(repo.parent, "linked", "elsewhere.md"))
    (repo / "AGENTS.override.md").symlink_to(repo / "nowhere")
    assert read_user_instructions(repo) == "linked"


def test_folder_of_the_name_is_no_document(repo: Path) -> None:
    (repo / "AGENTS.override.md").mkdir()
    doc(repo, "text")
    assert read_user_instructions(repo) == "text"


def test_pipe_is_left_out_without_waiting(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(repo / "AGENTS.md")
    doc(repo / "a", "text")
    assert read_user_instructions(repo / "a") == "text"
    assert f"{repo / 'AGENTS.md'} is left out: it is no regular file" in caplog.text


def test_document_that_fails_leaves_the_others(repo: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "AGENTS.md").mkdir()
    doc(repo, "text")
    assert read_user_instructions(repo, home) == "text"
    assert f"{home / 'AGENTS.md'} is left out: it cannot be read (Is a directory)" in caplog.text


@needs_no_root
def test_unreadable_document_is_left_out(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    doc(repo, "secret").chmod(0)
    doc(repo / "a", "text")
    assert read_user_instructions(repo / "a") == "text"
    assert "Permission denied" in caplog.text


def test_skills_are_listed_behind_the_documents(repo: Path, home: Path) -> None:
    skills = (Skill("one", "does one", None, Path("/s/one/SKILL.md")), Skill("two", "does two", "2", Path("/s/\udcff")))
    text = read_user_instructions(repo, home, skills=skills)
    assert text is not None
    assert text.startswith("## Skills\n")
    assert "\n- one: does one (file: /s/one/SKILL.md)\n- two: does two (file: /s/\ufffd)\n" in text
    doc(repo, "project")
    assert read_user_instructions(repo, home, skills=skills) == f"project\n\n{text}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cwd": None}, "cwd: None is not a path"),
        ({"cwd": ".", "codex_home": 5}, "codex_home: 5 is not a path"),
        ({"cwd": ".", "max_bytes": -1}, "max_bytes: -1 is not a whole number"),
        ({"cwd": ".", "max_bytes": True}, "max_bytes: True is not a whole number"),
        ({"cwd": ".", "max_bytes": "1"}, "max_bytes: '1' is not a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        read_user_instructions(**arguments)
