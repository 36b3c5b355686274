from __future__ import annotations

import copy
import json
import pickle
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from codex_actors.protocol.ids import INITIAL_SUBMIT_ID, ThreadId

TEXT = "01a208d7-edea-79b2-aa1a-cba508aa5d39"


@given(st.uuids())
def test_any_uuid_is_a_thread_id(value: UUID) -> None:
    thread_id = ThreadId(value)
    assert thread_id == str(value)
    assert ThreadId(value.hex) == ThreadId(str(value).upper()) == ThreadId(thread_id) == thread_id


@given(st.binary(min_size=16, max_size=16))
def test_raw_bytes_make_the_uuids_text(raw: bytes) -> None:
    assert ThreadId.from_v7_bytes(raw) == str(UUID(bytes=raw))


@pytest.mark.parametrize("value", ["", "x", TEXT[:-1], TEXT + "0", 7, None])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="UUID"):
        ThreadId(value)


def test_an_id_is_a_plain_string_in_json() -> None:
    adapter: TypeAdapter[ThreadId] = TypeAdapter(ThreadId)
    thread_id = adapter.validate_json(f'"{TEXT.upper()}"')
    assert (type(thread_id), thread_id) == (ThreadId, TEXT)
    assert json.loads(adapter.dump_json(thread_id)) == json.loads(json.dumps(thread_id)) == TEXT
    with pytest.raises(ValidationError):
        adapter.validate_json('"no id"')


def test_an_id_copies_pickles_and_names_itself() -> None:
    thread_id = ThreadId(TEXT)
    assert type(pickle.loads(pickle.dumps(thread_id))) is ThreadId
    assert copy.deepcopy(thread_id) == thread_id
    assert repr(thread_id) == f"ThreadId('{TEXT}')"
    assert INITIAL_SUBMIT_ID == ""
