"""The list of models that a server gave last, kept in `<codex_home>/models_cache.json` for all managers of a home.

Source: `codex-rs/core/src/models_manager/cache.rs`, `ModelsCache`; `provider` is ours, which may have several.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, ValidationError

from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.wire import Wire
from codex_actors.services.atomic import write_atomically
from codex_actors.version import __version__

_log = logging.getLogger(__name__)

CACHE_NAME = "models_cache.json"
"""The file's name in a codex home."""

CLIENT_VERSION = f"codex_actors/{__version__}"
"""Who wrote a cache: another version's may have other fields, and Codex itself uses the same file."""

_MAX_BYTES = 8 * 1024 * 1024


class ModelsCache(Wire):
    """What a server answered, and when it last said that this still holds."""

    fetched_at: AwareDatetime
    etag: str | None = None
    client_version: str | None = None
    provider: str | None = None
    models: tuple[ModelPreset, ...]

    @classmethod
    def made_at(cls, now_s: float, provider: str, models: tuple[ModelPreset, ...], etag: str | None) -> ModelsCache:
        """The cache of what was fetched at `now_s`, in seconds since the epoch."""
        when = datetime.fromtimestamp(now_s, UTC)
        return cls(fetched_at=when, etag=etag, client_version=CLIENT_VERSION, provider=provider, models=models)

    def is_fresh(self, now_s: float, ttl_s: float) -> bool:
        """Whether it is at most `ttl_s` old; with 0 never, nor when it comes from the future, as no clock can be right."""
        return ttl_s > 0 and 0 <= now_s - self.fetched_at.timestamp() <= ttl_s


def read_models_cache(path: Path, provider: str) -> ModelsCache | None:
    """What `provider` wrote there; None for no file, and for one of somebody else. One that is damaged counts as none,
    with a warning in the log.

    Runs in: an OS thread that may wait for the disk.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            _log.warning("%s is not used: it has more than %d bytes", path, _MAX_BYTES)
            return None
        raw: Any = json.loads(content)
        if isinstance(raw, dict) and (raw.get("client_version"), raw.get("provider")) != (CLIENT_VERSION, provider):
            return None
        return ModelsCache.model_validate(raw)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error.strerror)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, each["loc"])) or "the whole" for each in error.errors()}))
        _log.warning("%s is no cache of models (wrong: %s), it is fetched anew", path, fields)
    except (ValueError, RecursionError) as error:
        _log.warning("%s is not JSON (%s), it is fetched anew", path, type(error).__name__)
    return None


def write_models_cache(path: Path, cache: ModelsCache) -> None:
    """Put it there; where that fails the log has a warning, and the next manager fetches for itself.

    Runs in: an OS thread that may wait for the disk.
    """
    try:
        write_atomically(path, cache.model_dump_json(exclude_none=True).encode())
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error.strerror)
