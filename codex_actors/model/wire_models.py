"""A server's list of models, as presets.

Source: `codex-rs/protocol/src/openai_models.rs`, `ModelInfo` and `ModelsResponse`; and OpenAI's `GET /models`.
"""

from __future__ import annotations

from typing import Any

from codex_actors.protocol.history import ModelPreset
from codex_actors.protocol.wire import made


def read_presets(raw: Any) -> tuple[ModelPreset, ...]:
    """The presets of a list's JSON, each slug once; may be empty.

    Codex's form, `{"models": [{"slug", "display_name", "description", "priority", "visibility"}]}`, is sorted by
    `priority`, without those whose `visibility` is not `list`; OpenAI's, `{"data": [{"id"}]}`, keeps its order. A list
    with both counts as Codex's unless that is empty.

    Raises:
        ValueError: it is neither.
    """
    models, data = (raw.get("models"), raw.get("data")) if isinstance(raw, dict) else (None, None)
    if isinstance(models, list) and (models or not isinstance(data, list)):
        rows = sorted(filter(_is_listed, models), key=_priority)
        return _unique([_preset(row, "slug") for row in rows])
    if isinstance(data, list):
        return _unique([_preset(row, "id") for row in data])
    raise ValueError("neither models nor data is a list")


def _is_listed(row: Any) -> bool:
    return isinstance(row, dict) and row.get("visibility", "list") == "list"


def _priority(row: dict[str, Any]) -> float:
    value = row.get("priority")
    return value if isinstance(value, int | float) else float("inf")


def _preset(row: Any, key: str) -> ModelPreset | None:
    slug = row.get(key) if isinstance(row, dict) else None
    if not isinstance(slug, str) or not slug:
        return None
    shown, description = row.get("display_name"), row.get("description")
    return made(
        ModelPreset,
        id=slug,
        model=slug,
        display_name=shown if isinstance(shown, str) and shown else slug,
        description=description if isinstance(description, str) else "",
    )


def _unique(presets: list[ModelPreset | None]) -> tuple[ModelPreset, ...]:
    by_slug: dict[str, ModelPreset] = {}
    for preset in presets:
        if preset is not None:
            by_slug.setdefault(preset.model, preset)
    return tuple(by_slug.values())
