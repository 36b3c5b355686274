"""The names of things: threads and submissions."""

from __future__ import annotations

from typing import Any, Self
from uuid import UUID

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

INITIAL_SUBMIT_ID = ""
"""The submission id of what a thread says before any submission. Source: `codex.rs`, `INITIAL_SUBMIT_ID`."""


class ThreadId(str):
    """The id of a thread: a UUID as a lower-case hyphenated string, minted as UUIDv7.

    Any UUID is accepted; anything else is a `ValueError`. It is a `str`, so it goes into JSON, sets and paths as it is.

    Source: `codex-rs/protocol/src/thread_id.rs`, `ThreadId`.
    """

    __slots__ = ()

    def __new__(cls, value: str | UUID) -> Self:
        return super().__new__(cls, value if isinstance(value, cls) else UUID(str(value)))

    @classmethod
    def from_v7_bytes(cls, raw: bytes) -> Self:
        """The id whose 16 bytes are a UUIDv7 made by the runtime's clock."""
        text = raw.hex()
        return super().__new__(cls, f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")

    def __repr__(self) -> str:
        return f"ThreadId({str(self)!r})"

    @classmethod
    def _parse(cls, value: Any) -> ThreadId:
        return value if type(value) is cls else cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._parse, serialization=core_schema.to_string_ser_schema(when_used="json")
        )
