from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.config import Config
from codex_actors.model.provider import provider_presets
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.history import ModelPreset
from codex_actors.services.auth import AuthManager
from codex_actors.services.models import ModelsManager


class Offering:
    def __init__(self, *presets: Any) -> None:
        self.presets = presets


class Broken:
    presets = 5


def preset(slug: str, *, is_default: bool = False) -> ModelPreset:
    return ModelPreset(id=slug, model=slug, display_name=slug, is_default=is_default)


def manager_of(model: object) -> ModelsManager:
    return ModelsManager(None, AuthManager(None), model)


@pytest.mark.parametrize(
    "model", [ScriptedModel(), ScriptedModel(name="x"), object(), Offering(preset("a", is_default=True))]
)
def test_agrees_with_the_provider_helpers(model: object) -> None:
    assert tuple(manager_of(model).list_models(Config())) == provider_presets(model)


def test_first_preset_becomes_the_default() -> None:
    listed = manager_of(Offering(preset("a"), preset("b"))).list_models(Config())
    assert listed == [preset("a", is_default=True), preset("b")]


@given(defaults=st.lists(st.booleans(), min_size=1, max_size=6))
def test_exactly_one_preset_is_default(defaults: list[bool]) -> None:
    presets = [preset(str(index), is_default=flag) for index, flag in enumerate(defaults)]
    manager = manager_of(Offering(*presets))
    listed = manager.list_models(Config())
    assert [item.model for item in listed] == [item.model for item in presets]
    chosen = defaults.index(True) if any(defaults) else 0
    assert [item.is_default for item in listed] == [index == chosen for index in range(len(defaults))]
    assert manager.get_model(Config()) == str(chosen)


def test_config_chooses_the_model() -> None:
    manager = manager_of(ScriptedModel())
    assert manager.get_model(Config(model="mine")) == "mine"
    assert manager.get_model(Config()) == "scripted"


@pytest.mark.parametrize("model", [Broken(), Offering(), Offering("a", 3)])
def test_rubbish_presets_never_fail(model: object) -> None:
    (listed,) = manager_of(model).list_models(Config())
    assert (listed.model, listed.is_default) == (type(model).__name__.lower(), True)


def test_rubbish_among_presets_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert [item.model for item in manager_of(Offering(preset("a"), "b")).list_models(Config())] == ["a"]
    assert "Offering.presets" in caplog.text


def test_manager_pickles_with_its_model() -> None:
    assert pickle.loads(pickle.dumps(manager_of(ScriptedModel()))).get_model(Config()) == "scripted"
