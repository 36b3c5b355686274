from __future__ import annotations

import asyncio
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.config import Config
from codex_actors.errors import ConnectionFailed
from codex_actors.model.provider import provider_presets
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.history import ModelPreset
from codex_actors.services.auth import AuthManager
from codex_actors.services.models import ModelsManager, Surroundings
from codex_actors.services.models_cache import CACHE_NAME, ModelsCache


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
    assert tuple(manager_of(model).known_models(Config())) == provider_presets(model)


def test_first_preset_becomes_the_default() -> None:
    listed = manager_of(Offering(preset("a"), preset("b"))).known_models(Config())
    assert listed == [preset("a", is_default=True), preset("b")]


@given(defaults=st.lists(st.booleans(), min_size=1, max_size=6))
def test_exactly_one_preset_is_default(defaults: list[bool]) -> None:
    presets = [preset(str(index), is_default=flag) for index, flag in enumerate(defaults)]
    manager = manager_of(Offering(*presets))
    listed = manager.known_models(Config())
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
    (listed,) = manager_of(model).known_models(Config())
    assert (listed.model, listed.is_default) == (type(model).__name__.lower(), True)


def test_rubbish_among_presets_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert [item.model for item in manager_of(Offering(preset("a"), "b")).known_models(Config())] == ["a"]
    assert "Offering.presets" in caplog.text


def test_manager_pickles_with_its_model() -> None:
    assert pickle.loads(pickle.dumps(manager_of(ScriptedModel()))).get_model(Config()) == "scripted"


# --- with a server -----------------------------------------------------------------------------------------------------


@dataclass
class List:
    presets: Any
    etag: Any = None


class Server(Offering):
    """Answers with `answer`, once `gate` is set, and keeps what it was asked."""

    name = "server"

    def __init__(self, answer: Any, *presets: ModelPreset) -> None:
        super().__init__(*presets)
        self.answer = answer
        self.asked: list[str | None] = []
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()

    async def fetch_models(self, etag: str | None) -> Any:
        self.asked.append(etag)
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Time:
    def __init__(self) -> None:
        self.now_s = 1_767_225_600.0

    def surroundings(self) -> Surroundings:
        return Surroundings(now_s=lambda: self.now_s)


def fetching(server: Server, home: Path | None = None, **options: Any) -> ModelsManager:
    return ModelsManager(home, AuthManager(home), server, **options)


def slugs(manager: ModelsManager, time: Time) -> list[str]:
    return [item.model for item in asyncio.run(manager.list_models(Config(), time.surroundings()))]


def kept(home: Path) -> Any:
    return json.loads((home / CACHE_NAME).read_bytes())


def test_models_of_the_server_come_first() -> None:
    server = Server(List((preset("a"), preset("b"))), preset("own"), preset("b"))
    listed = asyncio.run(fetching(server).list_models(Config()))
    assert [item.model for item in listed] == ["a", "b", "own"]


def test_fetched_models_are_sorted_by_priority() -> None:
    ranked = [preset(slug).model_copy(update={"priority": rank}) for slug, rank in [("c", 9), ("a", 1), ("b", 1)]]
    assert slugs(fetching(Server(List((preset("last"), *ranked)))), Time()) == ["a", "b", "c", "last"]


def test_models_that_no_key_may_use_are_left_out() -> None:
    closed = preset("a").model_copy(update={"supported_in_api": False})
    assert slugs(fetching(Server(List((closed, preset("b"))))), Time()) == ["b"]


HIDDEN = preset("a").model_copy(update={"show_in_picker": False})


@pytest.mark.parametrize(
    ("fetched", "own", "default"),
    [
        ((preset("a"), preset("b", is_default=True)), (preset("c", is_default=True),), "b"),
        ((preset("a"), preset("b")), (preset("c"), preset("b", is_default=True)), "b"),
        ((preset("a"), preset("b")), (preset("c", is_default=True),), "c"),
        ((HIDDEN, preset("b")), (preset("c"),), "b"),
        ((HIDDEN,), (), "a"),
        ((), (preset("c"),), "c"),
        ((), (), "server"),
    ],
)
def test_default_of_server_and_provider(fetched: Any, own: Any, default: str) -> None:
    manager = fetching(Server(List(fetched), *own))
    listed = asyncio.run(manager.list_models(Config()))
    assert [item.model for item in listed if item.is_default] == [default]
    assert manager.get_model(Config()) == default


def test_model_of_a_thread_is_never_fetched() -> None:
    server = Server(List((preset("a"),)))
    assert fetching(server).get_model(Config()) == "server"
    assert server.asked == []


def test_list_is_asked_for_again_when_old(tmp_path: Path) -> None:
    server, time = Server(List((preset("a"),), "e1")), Time()
    manager = fetching(server, tmp_path)
    assert slugs(manager, time) == slugs(manager, time) == ["a"]
    time.now_s += 300
    assert slugs(manager, time) == ["a"]
    assert server.asked == [None]
    server.answer = List((preset("b"),), "e2")
    time.now_s += 1
    assert slugs(manager, time) == ["b"]
    assert server.asked == [None, "e1"]
    assert [item["model"] for item in kept(tmp_path)["models"]] == ["b"]


@pytest.mark.parametrize("answer", [None, List((preset("a"),), "e")])
def test_unchanged_list_is_renewed(tmp_path: Path, answer: Any) -> None:
    server, time = Server(List((preset("a"),), "e")), Time()
    manager = fetching(server, tmp_path)
    slugs(manager, time)
    before = kept(tmp_path)
    server.answer = answer
    time.now_s += 1000
    assert slugs(manager, time) == slugs(manager, time) == ["a"]
    assert server.asked == [None, "e"]
    assert kept(tmp_path) == {**before, "fetched_at": "2026-01-01T00:16:40Z"}


def test_ttl_of_zero_always_asks() -> None:
    server, time = Server(List((preset("a"),))), Time()
    manager = fetching(server, ttl_s=0)
    assert slugs(manager, time) == slugs(manager, time) == ["a"]
    assert len(server.asked) == 2


def test_managers_of_one_home_share_the_list(tmp_path: Path) -> None:
    first, second, time = Server(List((preset("a"),), "e")), Server(None), Time()
    slugs(fetching(first, tmp_path), time)
    manager = fetching(second, tmp_path)
    assert slugs(manager, time) == ["a"]
    assert second.asked == []
    time.now_s += 301
    assert slugs(manager, time) == ["a"]
    assert second.asked == ["e"]


def test_newer_file_counts_before_the_server(tmp_path: Path) -> None:
    first, second, time = Server(List((preset("a"),))), Server(List((preset("b"),))), Time()
    manager = fetching(first, tmp_path)
    slugs(manager, time)
    time.now_s += 301
    slugs(fetching(second, tmp_path, ttl_s=0), time)
    assert slugs(manager, time) == ["b"]
    assert len(first.asked) == 1


def test_other_providers_list_is_not_taken(tmp_path: Path) -> None:
    other = Server(List((preset("b"),), "e2"))
    other.name = "other"
    time = Time()
    slugs(fetching(Server(List((preset("a"),), "e1")), tmp_path), time)
    assert slugs(fetching(other, tmp_path), time) == ["b"]
    assert other.asked == [None]


def test_damaged_file_is_fetched_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / CACHE_NAME).write_bytes(b"{")
    assert slugs(fetching(Server(List((preset("a"),))), tmp_path), Time()) == ["a"]
    assert "is not JSON" in caplog.text
    assert ModelsCache.model_validate(kept(tmp_path)).models == (preset("a"),)


FAILURES = {
    "refused": (ConnectionFailed("h", "refused"), "ConnectionFailed: connection to h failed: refused"),
    "foreign": (ValueError("sk-do-not-show"), "(ValueError)"),
    "exit": (SystemExit("sk-do-not-show"), "(SystemExit)"),
    "cancelled": (asyncio.CancelledError(), "(CancelledError)"),
    "nothing": (None, "it says that the list still holds"),
    "rubbish": (5, "(AttributeError)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failed_fetch_falls_back_to_presets(name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer, text = FAILURES[name]
    assert slugs(fetching(Server(answer, preset("own"))), Time()) == ["own"]
    assert text in caplog.text
    assert "sk-do-not-show" not in caplog.text


def test_failed_fetch_keeps_the_old_list(tmp_path: Path) -> None:
    server, time = Server(List((preset("a"),), "e")), Time()
    slugs(fetching(server, tmp_path), time)
    time.now_s += 1000
    server.answer = ConnectionFailed("h", "refused")
    assert slugs(fetching(server, tmp_path), time) == ["a"]
    assert server.asked == [None, "e"]


@pytest.mark.parametrize("presets", [5, None, "ab"])
def test_fetched_rubbish_counts_as_empty(presets: Any) -> None:
    assert slugs(fetching(Server(List(presets), preset("own"))), Time()) == ["own"]


def test_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("codex_actors.services.models.FETCH_TIMEOUT_S", 0.01)
    server = Server(None, preset("own"))
    server.gate = asyncio.Event()
    assert slugs(fetching(server), Time()) == ["own"]
    assert "(TimeoutError)" in caplog.text


def test_callers_at_once_share_one_request() -> None:
    async def main() -> None:
        server = Server(List((preset("a"),)))
        server.gate = asyncio.Event()
        manager = fetching(server, ttl_s=0)
        first, *others = (asyncio.ensure_future(manager.list_models(Config())) for _ in range(5))
        await server.reached.wait()
        first.cancel()
        server.gate.set()
        assert [[item.model for item in await other] for other in others] == [["a"]] * 4
        assert len(server.asked) == 1
        await manager.list_models(Config())
        assert len(server.asked) == 2

    asyncio.run(main())


def test_manager_pickles_with_what_it_fetched() -> None:
    manager = fetching(Server(List((preset("a"),))))
    slugs(manager, Time())
    assert pickle.loads(pickle.dumps(manager)).get_model(Config()) == "a"
