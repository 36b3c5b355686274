"""Which models a host may offer, and which one a thread gets.

Source: `codex-rs/core/src/models_manager/manager.rs`, `ModelsManager`. The lists are those of the one model provider: its
own presets and, where it can ask a server, the server's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from codex_actors.config import Config
from codex_actors.errors import CodexError
from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.wire import made
from codex_actors.services.auth import AuthManager
from codex_actors.services.models_cache import CACHE_NAME, ModelsCache, read_models_cache, write_models_cache

T = TypeVar("T")

_log = logging.getLogger(__name__)

CACHE_TTL_S = 300.0
"""How long a list that was fetched counts as the server's."""

FETCH_TIMEOUT_S = 5.0
"""How long a server may take to answer with its list; then what is known has to do."""


class Fetched(Protocol):
    """A server's list, the best first."""

    @property
    def presets(self) -> tuple[ModelPreset, ...]: ...

    @property
    def etag(self) -> str | None: ...


@runtime_checkable
class FetchesModels(Protocol):
    """A model provider that can ask its server what there is."""

    async def fetch_models(self, etag: str | None) -> Fetched | None:
        """The server's list; None says that the one with `etag` still holds."""
        ...


class Loads(Protocol):
    """Something that runs a call which waits for the disk."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """What `call()` returns."""
        ...


async def load_here(call: Callable[[], T]) -> T:
    """Run `call()` in the caller's OS thread."""
    return call()


async def always_ready() -> None:
    """Nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a fetch needs of whoever runs it.

    Attributes:
        load: Reads and writes the cache.
        ready: Answers when the provider is open.
        now_s: The time, in seconds since the epoch.
    """

    load: Loads = load_here
    ready: Callable[[], Awaitable[Any]] = always_ready
    now_s: Callable[[], float] = time.time


class ModelsManager:
    """Lists what `model` offers: its attribute `presets`, else one preset under its name (its attribute `name`, else
    its class's name in lower case); in front of them what its server has, if it is a `FetchesModels`.

    What was fetched is kept in memory, and for other managers in `<codex_home>/models_cache.json` (None as home: only in
    memory). For `ttl_s` seconds it is not asked for again; then the server may say that it still holds.

    It pickles if `model` does. Only `list_models` does I/O.
    """

    def __init__(
        self, codex_home: Path | None, auth_manager: AuthManager, model: object, *, ttl_s: float = CACHE_TTL_S
    ) -> None:
        self.codex_home = codex_home
        self.auth_manager = auth_manager
        self._model = model
        self._ttl_s = ttl_s
        self._cache: ModelsCache | None = None
        self._flight: asyncio.Task[None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_flight": None}

    async def list_models(self, config: Config, surroundings: Surroundings = Surroundings()) -> list[ModelPreset]:
        """What `known_models` says, once the server was asked where that is due. Callers at the same time share one
        request.

        Never fails: where the server does not answer within 5 s, or wrongly, what it said before counts, and without that
        the provider's own presets; the log has a warning.

        Runs in: a task on the loop of the model provider.
        """
        if isinstance(self._model, FetchesModels) and not self._is_fresh(surroundings.now_s()):
            loop = asyncio.get_running_loop()
            flight = self._flight
            if flight is None or flight.done() or flight.get_loop() is not loop:
                # A task of its own: a caller that is cancelled does not take the answer from the others.
                flight = self._flight = loop.create_task(self._renew(self._model, surroundings))
                flight.add_done_callback(self._landed)
            await asyncio.shield(flight)
        return self.known_models(config)

    def known_models(self, config: Config) -> list[ModelPreset]:
        """The presets to offer, never empty, exactly one of them the default.

        First the server's, as far as they were fetched, by `priority` (those without one last) and without those that an
        API key may not use; then the provider's own that the server does not have, in its order. What is no preset is
        left out, with a warning in the log.

        The default is the first of the server's that says so, else the first of the provider's own, else the first to be
        shown. In Codex the provider's own give way, as its server sorts its list; that of OpenAI's API is in no order.

        Source: `try_list_models`, `build_available_models`.
        """
        presets, chosen = self._known()
        return [
            preset
            if preset.is_default is (index == chosen)
            else preset.model_copy(update={"is_default": index == chosen})
            for index, preset in enumerate(presets)
        ]

    def get_model(self, config: Config) -> str:
        """The slug for a thread of `config`: its own, else that of the default among `known_models`."""
        if config.model is not None:
            return config.model
        presets, chosen = self._known()
        return presets[chosen].model

    def _known(self) -> tuple[list[ModelPreset], int]:
        """The presets as they came, in order, and the index of the default."""
        fetched = [] if self._cache is None else _usable(self._cache.models)
        own = self._checked(getattr(self._model, "presets", None), "presets")
        if not fetched:
            presets = own or [self._made_up()]
        else:
            slugs = {preset.model for preset in fetched}
            presets = [*fetched, *(preset for preset in own if preset.model not in slugs)]
        wanted = next((preset.model for preset in (*fetched, *own) if preset.is_default), None)
        shown = [index for index, preset in enumerate(presets) if _flag(preset, "show_in_picker")]
        return presets, next((i for i, preset in enumerate(presets) if preset.model == wanted), (shown or [0])[0])

    def _landed(self, flight: asyncio.Task[None]) -> None:
        if self._flight is flight:
            self._flight = None

    def _is_fresh(self, now_s: float) -> bool:
        return self._cache is not None and self._cache.is_fresh(now_s, self._ttl_s)

    async def _renew(self, model: FetchesModels, surroundings: Surroundings) -> None:
        name = self._provider_name()
        path = None if self.codex_home is None else self.codex_home / CACHE_NAME
        if path is not None:
            kept = await surroundings.load(lambda: read_models_cache(path, name))
            if kept is not None and (self._cache is None or kept.fetched_at > self._cache.fetched_at):
                self._cache = kept
            if self._is_fresh(surroundings.now_s()):
                return
        cache = await self._fetch(model, name, surroundings)
        if cache is not None:
            self._cache = cache
            if path is not None:
                await surroundings.load(lambda: write_models_cache(path, cache))

    async def _fetch(self, model: FetchesModels, name: str, surroundings: Surroundings) -> ModelsCache | None:
        old = self._cache
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                await surroundings.ready()
                fetched = await model.fetch_models(None if old is None else old.etag)
            if fetched is not None:
                presets, etag = self._checked(fetched.presets, "what was fetched"), fetched.etag
                return ModelsCache.made_at(surroundings.now_s(), name, tuple(presets), etag if etag else None)
            if old is not None:
                return ModelsCache.made_at(surroundings.now_s(), name, old.models, old.etag)
            reason = "it says that the list still holds, but none was fetched"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a provider is a host's code: whatever comes out of it, the list does not fail
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # The text of a foreign error may quote a request with its key.
            reason = f"{type(error).__name__}: {error}" if isinstance(error, CodexError) else type(error).__name__
        _log.warning("the models of %s could not be fetched (%s); what is known counts", name, reason)
        return None

    def _made_up(self) -> ModelPreset:
        # With `_known` and `_provider_name` these are the rules of model.provider.provider_presets and provider_name, which
        # a service may not import; test_agrees_with_the_provider_helpers holds them together.
        slug = self._provider_name()
        return made(ModelPreset, id=slug, model=slug, display_name=slug, is_default=True)

    def _checked(self, offered: object, what: str) -> list[ModelPreset]:
        if not isinstance(offered, list | tuple):
            if offered is not None:
                _log.warning("%s.%s is no list of ModelPreset", type(self._model).__name__, what)
            return []
        presets = [preset for preset in offered if isinstance(preset, ModelPreset)]
        if len(presets) < len(offered):
            _log.warning("%s.%s: left out what is no ModelPreset", type(self._model).__name__, what)
        return presets

    def _provider_name(self) -> str:
        name = getattr(self._model, "name", None)
        return name if isinstance(name, str) and name else type(self._model).__name__.lower()


def _usable(presets: tuple[ModelPreset, ...]) -> list[ModelPreset]:
    """Those for an API key, which is what we send; the best first."""
    return sorted((preset for preset in presets if _flag(preset, "supported_in_api")), key=_priority)


def _priority(preset: ModelPreset) -> float:
    priority = getattr(preset, "priority", None)
    return priority if isinstance(priority, int | float) else float("inf")


def _flag(preset: ModelPreset, name: str) -> bool:
    """A server's field that the preset may have kept; one that is missing says yes."""
    return getattr(preset, name, None) is not False
