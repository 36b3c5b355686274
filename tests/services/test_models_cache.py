from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.protocol.history import ModelPreset
from codex_actors.services.models_cache import CLIENT_VERSION, ModelsCache, read_models_cache, write_models_cache

NOW_S = 1_767_225_600.0
PRESET = ModelPreset.model_validate({"id": "a", "model": "a", "display_name": "é", "later": {"priority": 1}})
CACHE = ModelsCache.made_at(NOW_S, "p", (PRESET,), "e")


def write(tmp_path: Path, **changes: Any) -> Path:
    raw = {**json.loads(CACHE.model_dump_json()), **changes}
    (tmp_path / "c.json").write_text(json.dumps(raw))
    return tmp_path / "c.json"


def test_cache_comes_back_as_written(tmp_path: Path) -> None:
    write_models_cache(tmp_path / "home" / "c.json", CACHE)
    assert read_models_cache(tmp_path / "home" / "c.json", "p") == CACHE
    raw = json.loads((tmp_path / "home" / "c.json").read_bytes())
    assert datetime.fromisoformat(raw["fetched_at"]) == datetime.fromtimestamp(NOW_S, UTC)
    assert (raw["etag"], raw["client_version"], raw["models"][0]["model"]) == ("e", CLIENT_VERSION, "a")


def test_missing_file_is_a_silent_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_models_cache(tmp_path / "c.json", "p") is None
    assert not caplog.records


OTHERS: list[dict[str, Any]] = [
    {"client_version": "1.2.3", "models": [{"slug": "a"}]},
    {"client_version": None},
    {"provider": "other"},
]


@pytest.mark.parametrize("changes", OTHERS)
def test_cache_of_somebody_else_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    path = write(tmp_path, **changes)
    assert read_models_cache(path, "p") is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fetched_at": "2026-01-01T00:00:00"}, "wrong: fetched_at"),
        ({"fetched_at": None, "models": [{"slug": "a"}]}, "models.0.id, models.0.model"),
        ({"etag": 5}, "wrong: etag"),
    ],
)
def test_damaged_cache_is_a_miss_with_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], text: str
) -> None:
    path = write(tmp_path, **changes)
    assert read_models_cache(path, "p") is None
    assert text in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "the whole"),
        (b" " * 8_388_609, "more than 8388608 bytes"),
    ],
)
def test_file_that_is_no_cache_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, text: str
) -> None:
    (tmp_path / "c.json").write_bytes(content)
    assert read_models_cache(tmp_path / "c.json", "p") is None
    (record,) = caplog.records
    assert (record.levelno, text in record.getMessage()) == (logging.WARNING, True)


def test_disk_that_refuses_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.json").mkdir()
    write_models_cache(tmp_path / "c.json", CACHE)
    assert read_models_cache(tmp_path / "c.json", "p") is None
    assert "cannot be written" in caplog.text
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("age_s", "ttl_s", "is_fresh"),
    [(0, 300, True), (300, 300, True), (301, 300, False), (0, 0, False), (-1, 300, False)],
)
def test_cache_is_fresh_up_to_its_age(age_s: float, ttl_s: float, is_fresh: bool) -> None:
    assert CACHE.is_fresh(NOW_S + age_s, ttl_s) is is_fresh


@given(content=st.binary(max_size=60))
def test_no_content_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("home") / "c.json"
    path.write_bytes(content)
    assert read_models_cache(path, "p") is None
