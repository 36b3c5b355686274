from __future__ import annotations

from typing import Any

import pytest

from codex_actors.model.wire_models import read_presets
from codex_actors.protocol.history import ModelPreset


def test_list_of_openai_keeps_its_order() -> None:
    raw = {"object": "list", "data": [{"id": "b", "object": "model"}, {"id": "a"}, {"id": "b"}, {"id": 7}, "c"]}
    assert read_presets(raw) == (
        ModelPreset(id="b", model="b", display_name="b"),
        ModelPreset(id="a", model="a", display_name="a"),
    )


def test_list_of_codex_is_sorted_by_priority() -> None:
    models = [
        {"slug": "later", "display_name": "Later", "description": "slow", "priority": 2, "visibility": "list"},
        {"slug": "hidden", "priority": 0, "visibility": "hide"},
        {"slug": "first", "display_name": "First", "priority": 1, "visibility": "list"},
        {"slug": "plain"},
    ]
    assert read_presets({"models": models, "data": [{"id": "x"}]}) == (
        ModelPreset(id="first", model="first", display_name="First"),
        ModelPreset(id="later", model="later", display_name="Later", description="slow"),
        ModelPreset(id="plain", model="plain", display_name="plain"),
    )


def test_empty_list_of_codex_gives_way() -> None:
    assert [preset.id for preset in read_presets({"models": [], "data": [{"id": "x"}]})] == ["x"]
    assert read_presets({"models": []}) == ()


@pytest.mark.parametrize("raw", [None, [], "x", {}, {"models": {}}, {"data": None}])
def test_what_is_no_list_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="neither models nor data"):
        read_presets(raw)
