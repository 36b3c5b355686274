from __future__ import annotations

import json
from pathlib import Path

import pytest

from codex_actors.errors import InvalidRequest, RolloutError
from codex_actors.rollout.names import append_name, names_path, read_names
from tests._kept_files import thread_id_of

NOW = "2027-03-01T10:00:00.000Z"
ONE, TWO = thread_id_of(1), thread_id_of(2)


def test_newest_name_of_a_thread_counts(tmp_path: Path) -> None:
    for thread_id, name in ((ONE, "a"), (TWO, "b"), (ONE, " c ")):
        append_name(tmp_path, thread_id, name, NOW)
    assert read_names(tmp_path) == {ONE: "c", TWO: "b"}


def test_line_is_that_of_codex(tmp_path: Path) -> None:
    append_name(tmp_path, ONE, "a", NOW)
    assert json.loads(names_path(tmp_path).read_text()) == {"id": ONE, "thread_name": "a", "updated_at": NOW}
    assert names_path(tmp_path).stat().st_mode & 0o777 == 0o600


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    names_path(tmp_path).write_text('[]\n{"id":1}\n\n{"id":"x","thread_name"')
    append_name(tmp_path, ONE, "a", NOW)
    assert read_names(tmp_path) == {ONE: "a"}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", 1])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        append_name(tmp_path, ONE, name, NOW)
    assert not names_path(tmp_path).exists()


def test_home_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="session_index"):
        append_name(tmp_path / "gone", ONE, "a", NOW)
    assert read_names(tmp_path / "gone") == {}
