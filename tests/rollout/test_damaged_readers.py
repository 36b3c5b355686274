from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import Forked, Replayed, Resumed, SessionMeta
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.chain import readable_segments
from codex_actors.rollout.encode import encode_line
from codex_actors.rollout.forking import Recorded, fork_of
from codex_actors.rollout.load import load_rollout
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import replayed_items
from tests.rollout.test_scan import LINE, ROOT_ID, STAMP

PLACE = st.floats(0, 1, exclude_max=True)
PIECE = st.sampled_from([b"", b"\n", b"x", b"}", b"}}\n", b'"', b"\xff", b"\0" * 40, b'{"timestamp":"'])
DAMAGE = st.tuples(PLACE, st.integers(0, 3) | st.integers(0, 600), PIECE)
"""Where, how many bytes are lost there, and what stands there instead."""


def meta(**more: Any) -> SessionMeta:
    return SessionMeta(id=ThreadId(ROOT_ID), timestamp=STAMP, cwd="/", originator="o", cli_version="0", **more)


def file_of(lines: list[Any], has_crc: bool, is_paginated: bool) -> bytes:
    first = meta(history_mode="paginated") if is_paginated else meta()
    whole = [encode_line(STAMP, line) for line in (first, *lines)]
    if is_paginated:
        bodies = [b'","ordinal":%d,' % number + line[len(STAMP) + 16 :] for number, line in enumerate(whole)]
        whole = [encode_line(STAMP, without_crc(body)) for body in bodies]
    return b"".join(whole if has_crc else map(without_crc, whole))


def without_crc(line: bytes) -> bytes:
    return line[: line.rindex(b',"crc":')] + b"}\n"


def damaged(data: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    for place, lost, piece in damages:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + lost :]
    return data


def rule_of(path: Path) -> Replayed | None:
    try:
        read = get_rollout_history(path)
    except RolloutError:
        return None
    assert isinstance(read, Resumed)
    return replayed_items(read.history)


def loaded(path: Path) -> Replayed | None:
    try:
        return load_rollout(path)
    except RolloutError:
        return None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "rollout.jsonl"


@settings(max_examples=300)
@given(st.lists(LINE, max_size=8), st.booleans(), st.booleans(), st.lists(DAMAGE, min_size=1, max_size=4))
def test_all_readers_agree_on_damage(
    path: Path, lines: list[Any], has_crc: bool, is_paginated: bool, damages: list[tuple[float, int, bytes]]
) -> None:
    path.write_bytes(damaged(file_of(lines, has_crc, is_paginated), damages))
    found, rule = loaded(path), rule_of(path)
    assert (found is None) == (rule is None)
    if found is None or rule is None:
        return
    assert found.history == rule.history
    assert (found.meta, found.status, found.usage, found.pending) == (rule.meta, rule.status, rule.usage, rule.pending)
    assert found.context == rule.context
    assert rule.is_counted or not found.is_counted  # what is not counted is only estimated
    fork = fork_of(Recorded(readable_segments(path), ()), None)
    assert isinstance(fork, Forked)
    assert fork.state is not None
    assert (fork.state.history, fork.state.status) == (rule.history, rule.status)
