"""Which models a host may offer, and which one a thread gets.

Source: `codex-rs/core/src/models_manager/manager.rs`, `ModelsManager`. The list is that of the one model provider;
a cached list of a server is not here yet.
"""

from __future__ import annotations

import logging
from pathlib import Path

from codex_actors.config import Config
from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.wire import made
from codex_actors.services.auth import AuthManager

_log = logging.getLogger(__name__)


class ModelsManager:
    """Lists what `model` offers: its attribute `presets`, else one preset under its name (its attribute `name`, else
    its class's name in lower case).

    It pickles if `model` does. Nothing here does I/O.
    """

    def __init__(self, codex_home: Path | None, auth_manager: AuthManager, model: object) -> None:
        self.codex_home = codex_home
        self.auth_manager = auth_manager
        self._model = model

    def list_models(self, config: Config) -> list[ModelPreset]:
        """The presets in the provider's order, never empty, exactly one of them the default: the first that says so,
        else the first.

        Never fails: what is no preset is left out, with a warning in the log.
        """
        presets = self._presets()
        chosen = next((index for index, preset in enumerate(presets) if preset.is_default), 0)
        return [
            preset
            if preset.is_default is (index == chosen)
            else preset.model_copy(update={"is_default": index == chosen})
            for index, preset in enumerate(presets)
        ]

    def get_model(self, config: Config) -> str:
        """The slug for a thread of `config`: its own, else the default preset's."""
        if config.model is not None:
            return config.model
        presets = self._presets()
        return next((preset.model for preset in presets if preset.is_default), presets[0].model)

    def _presets(self) -> list[ModelPreset]:
        # The rules are those of model.provider.provider_presets and provider_name, which a service may not import;
        # test_agrees_with_the_provider_helpers holds them together.
        offered = getattr(self._model, "presets", None)
        if isinstance(offered, list | tuple):
            presets = [preset for preset in offered if isinstance(preset, ModelPreset)]
            if len(presets) < len(offered):
                _log.warning("%s.presets: left out what is no ModelPreset", type(self._model).__name__)
            if presets:
                return presets
        elif offered is not None:
            _log.warning("%s.presets is no list of ModelPreset", type(self._model).__name__)
        name = getattr(self._model, "name", None)
        slug = name if isinstance(name, str) and name else type(self._model).__name__.lower()
        return [made(ModelPreset, id=slug, model=slug, display_name=slug, is_default=True)]
