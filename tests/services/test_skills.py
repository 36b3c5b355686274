from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest
from codex_actors.services.skills import Skill, SkillsManager, SkillsOutcome

needs_no_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")


def write(home: Path, folder: str, content: str | bytes) -> Path:
    path = home / "skills" / folder / "SKILL.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def skill(home: Path, folder: str, name: str, description: str = "does it") -> Path:
    return write(home, folder, f"---\nname: {name}\ndescription: {description}\n---\n\n# Body\n")


def names(home: Path) -> list[str]:
    return [found.name for found in SkillsManager(home).skills().skills]


def test_home_without_skills_has_none(tmp_path: Path) -> None:
    assert SkillsManager(None).skills() == SkillsOutcome()
    assert SkillsManager(tmp_path).skills() == SkillsOutcome()
    (tmp_path / "skills").write_text("a file")
    assert SkillsManager(tmp_path).skills() == SkillsOutcome()


def test_skill_is_read_from_its_front_matter(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "demo",
        "---\nname: demo-skill\ndescription: |-\n  does things\n   carefully\n"
        "metadata:\n  short-description: does\n---\n# Body\n",
    )
    expected = Skill("demo-skill", "does things carefully", "does", path, scope="user")
    assert SkillsManager(tmp_path).skills() == SkillsOutcome(skills=(expected,))


def test_skills_are_sorted_by_name(tmp_path: Path) -> None:
    skill(tmp_path, "a", "zebra")
    skill(tmp_path, "b/c", "ant")
    skill(tmp_path, "", "middle")
    assert names(tmp_path) == ["ant", "middle", "zebra"]


def test_shallowest_skill_of_a_name_counts(tmp_path: Path) -> None:
    skill(tmp_path, "a/deep", "same", "deep")
    skill(tmp_path, "b", "same", "second")
    first = skill(tmp_path, "a", "same", "first")
    assert [found.path for found in SkillsManager(tmp_path).skills().skills] == [first]


def test_hidden_names_are_skipped(tmp_path: Path) -> None:
    skill(tmp_path, ".hidden", "hidden")
    skill(tmp_path, "a/.system", "hidden")
    assert names(tmp_path) == []


def test_scan_goes_six_folders_deep(tmp_path: Path) -> None:
    skill(tmp_path, "1/2/3/4/5/6", "six")
    skill(tmp_path, "1/2/3/4/5/6/7", "seven")
    assert names(tmp_path) == ["six"]


def test_scan_stops_after_two_thousand_folders(tmp_path: Path) -> None:
    skill(tmp_path, "a", "first")
    for index in range(2000):
        (tmp_path / "skills" / f"b{index}").mkdir()
    outcome = SkillsManager(tmp_path).skills()
    assert [error.message for error in outcome.errors] == ["the scan stopped after 2000 folders"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    elsewhere = skill(tmp_path / "elsewhere", "x", "linked")
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills" / "link").symlink_to(elsewhere.parent)
    (tmp_path / "skills" / "again").symlink_to(elsewhere.parent)
    (elsewhere.parent / "circle").symlink_to(tmp_path / "skills")
    (tmp_path / "skills" / "broken").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["linked"]


def test_linked_files_are_not_followed(tmp_path: Path) -> None:
    target = skill(tmp_path / "elsewhere", "x", "linked")
    (tmp_path / "skills" / "a").mkdir(parents=True)
    (tmp_path / "skills" / "a" / "SKILL.md").symlink_to(target)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("no front matter", "missing YAML frontmatter delimited by ---"),
        ("", "missing YAML frontmatter delimited by ---"),
        ("---\nname: bad", "missing YAML frontmatter delimited by ---"),
        ("---\n---\n", "invalid YAML: expected fields and values"),
        ("---\n- a\n---\n", "invalid YAML: expected fields and values"),
        ("---\nname: [\n---\n", "invalid YAML: while parsing"),
        ("---\nname: 2024-13-45\n---\n", "invalid YAML: month must be"),
        ("---\nname: " + "[" * 5000 + "\n---\n", "invalid YAML: "),
        ("---\nname: !!python/object:os.system x\n---\n", "invalid YAML: could not determine a constructor"),
        ("---\nname: a\n---\n", "missing field `description`"),
        ("---\ndescription: a\n---\n", "missing field `name`"),
        ("---\nname: ' '\ndescription: a\n---\n", "missing field `name`"),
        ("---\nname: 3\ndescription: a\n---\n", "invalid name: expected text"),
        (f"---\nname: {'x' * 65}\ndescription: a\n---\n", "invalid name: exceeds maximum length of 64 characters"),
        (f"---\nname: a\ndescription: {'x' * 1025}\n---\n", "invalid description: exceeds maximum length of 1024"),
        (
            f"---\nname: a\ndescription: b\nmetadata:\n  short-description: {'x' * 1025}\n---\n",
            "invalid metadata.short-description: exceeds",
        ),
        ("---\nname: a\ndescription: b\nmetadata: c\n---\n", "invalid metadata: expected fields and values"),
        (b"---\nname: \xff\n---\n", "failed to read file: not UTF-8"),
    ],
)
def test_bad_file_is_one_error_among_skills(tmp_path: Path, content: str | bytes, text: str) -> None:
    bad = write(tmp_path, "bad", content)
    skill(tmp_path, "good", "good")
    outcome = SkillsManager(tmp_path).skills()
    assert [found.name for found in outcome.skills] == ["good"]
    (error,) = outcome.errors
    assert error.path == bad
    assert error.message.startswith(text)
    assert "\n" not in error.message


def test_lengths_count_characters_not_bytes(tmp_path: Path) -> None:
    skill(tmp_path, "a", "x" * 64, "\U0001f4a1" * 1024)
    assert names(tmp_path) == ["x" * 64]


def test_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    write(tmp_path, "a", b"\xef\xbb\xbf---\r\nname: dos\r\ndescription: b\r\n---\r\n")
    assert names(tmp_path) == ["dos"]


def test_long_body_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "a", b"---\nname: long\ndescription: b\n---\n" + b"\xff" * 1_000_000)
    assert names(tmp_path) == ["long"]


def test_escaped_surrogates_become_question_marks(tmp_path: Path) -> None:
    skill(tmp_path, "a", '"a\\uD800"')
    assert names(tmp_path) == ["a?"]


@needs_no_root
def test_unreadable_folder_and_file_are_errors(tmp_path: Path) -> None:
    folder = skill(tmp_path, "a", "first").parent
    file = skill(tmp_path, "b", "second")
    folder.chmod(0)
    file.chmod(0)
    outcome = SkillsManager(tmp_path).skills()
    folder.chmod(0o700)
    assert [(error.path, error.message) for error in outcome.errors] == [
        (folder, "failed to read folder: Permission denied"),
        (file, "failed to read file: Permission denied"),
    ]


def test_skills_are_kept_until_reload(tmp_path: Path) -> None:
    skill(tmp_path, "a", "one")
    manager = SkillsManager(tmp_path)
    first = manager.skills()
    skill(tmp_path, "b", "two")
    assert manager.skills() is first
    assert [found.name for found in manager.reload().skills] == ["one", "two"]
    assert manager.skills() is not first


def test_manager_pickles_with_what_it_found(tmp_path: Path) -> None:
    skill(tmp_path, "a", "one")
    manager = SkillsManager(tmp_path)
    found = manager.skills()
    assert pickle.loads(pickle.dumps(manager)).skills() == found


# --- several roots -----------------------------------------------------------------------------------------------------


def found_for(manager: SkillsManager, cwd: Path) -> list[tuple[str, str, str]]:
    return [(found.scope, found.name, found.description) for found in manager.skills_for(cwd).skills]


def project_skill(folder: Path, name: str, description: str = "does it") -> Path:
    return skill(folder / ".codex", name, name, description)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "a").mkdir()
    return tmp_path / "repo"


def test_scopes_are_ranked_repo_user_admin(tmp_path: Path, repo: Path) -> None:
    skill(tmp_path / "admin", "x", "aaa")
    skill(tmp_path / "home", "x", "bbb")
    project_skill(repo, "ccc")
    manager = SkillsManager(tmp_path / "home", admin_dir=tmp_path / "admin" / "skills")
    assert [found[:2] for found in found_for(manager, repo)] == [("repo", "ccc"), ("user", "bbb"), ("admin", "aaa")]
    assert [found.scope for found in manager.skills().skills] == ["user", "admin"]


def test_first_root_of_a_name_counts(tmp_path: Path, repo: Path) -> None:
    skill(tmp_path / "home", "x", "same", "user")
    project_skill(repo, "same", "root")
    manager = SkillsManager(tmp_path / "home", admin_dir=None)
    assert found_for(manager, repo / "a") == [("repo", "same", "root")]
    project_skill(repo / "a", "same", "nearest")
    assert manager.skills_for(repo / "a", force_reload=True).skills[0].description == "nearest"


def test_projects_do_not_see_each_other(tmp_path: Path, repo: Path) -> None:
    project_skill(tmp_path, "outside")
    project_skill(repo / "a", "inside")
    manager = SkillsManager(None, admin_dir=None)
    assert found_for(manager, repo) == []
    assert found_for(manager, repo / "a") == [("repo", "inside", "does it")]
    assert found_for(manager, tmp_path) == [("repo", "outside", "does it")]


def test_codex_home_in_a_repository_is_the_users(repo: Path) -> None:
    project_skill(repo, "mine")
    assert found_for(SkillsManager(repo / ".codex", admin_dir=None), repo) == [("user", "mine", "does it")]


def test_errors_of_each_root_are_kept(tmp_path: Path, repo: Path) -> None:
    bad = [write(repo / ".codex", "x", "nothing"), write(tmp_path / "home", "x", "nothing")]
    outcome = SkillsManager(tmp_path / "home", admin_dir=None).skills_for(repo)
    assert [error.path for error in outcome.errors] == bad


def test_each_folder_is_kept_until_its_reload(repo: Path) -> None:
    manager = SkillsManager(None, admin_dir=None)
    before = manager.skills_for(repo), manager.skills_for(repo / "a")
    project_skill(repo, "new")
    assert manager.skills_for(str(repo)) is before[0]
    assert [found.name for found in manager.skills_for(repo, force_reload=True).skills] == ["new"]
    assert manager.skills_for(repo / "a") is before[1]
    manager.reload()
    assert [found.name for found in manager.skills_for(repo / "a").skills] == ["new"]


def test_folders_asked_for_longest_ago_are_forgotten(tmp_path: Path) -> None:
    manager = SkillsManager(None, admin_dir=None)
    first, second = manager.skills_for(tmp_path / "first"), manager.skills_for(tmp_path / "second")
    for index in range(255):
        manager.skills_for(tmp_path / f"{index}")
        assert manager.skills_for(tmp_path / "first") is first
    assert manager.skills_for(tmp_path / "second") is not second


def test_wrong_folder_of_a_project_is_named() -> None:
    with pytest.raises(InvalidRequest, match="cwd: None is not a path"):
        SkillsManager(None).skills_for(None)  # type: ignore[arg-type]


def test_other_modules_do_not_import_yaml() -> None:
    code = (
        "import sys, codex_actors.context, codex_actors.model.scripted, codex_actors.tools.tool, "
        "codex_actors.services.auth, codex_actors.services.models, "
        "codex_actors.services.project_docs; sys.exit('yaml' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 0


@given(content=st.text(max_size=80) | st.text("-:[]{}&*!|>%@`'\"#,?=~ \n\tab0.", max_size=80))
def test_no_front_matter_breaks_the_scan(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    home = tmp_path_factory.mktemp("home")
    write(home, "a", f"---\n{content}\n---\n".encode(errors="replace"))
    outcome = SkillsManager(home).skills()
    assert len(outcome.skills) + len(outcome.errors) == 1
