"""The base of every wire model: frozen, unknown fields kept."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """A frozen value with Codex's field names. Fields that we do not know are kept, so that files pass through unharmed."""

    model_config = ConfigDict(frozen=True, extra="allow")
