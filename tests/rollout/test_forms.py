"""Files of each form that was ever written or read here, with what they must give for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from codex_actors import Config, Resumed, ScriptedModel, ThreadManager
from codex_actors.protocol.items import Message
from codex_actors.protocol.wire import wire_value
from codex_actors.rollout.load import load_rollout
from codex_actors.rollout.reader import get_rollout_history

WAIT_S = 10.0
DATA = Path(__file__).parent / "data"
FORMS = sorted(DATA.rglob("*.jsonl"))


def kinds_of(path: Path) -> list[str]:
    """What each line is that was not lost: its type, and that of its payload."""
    history = get_rollout_history(path)
    assert isinstance(history, Resumed)
    values = [wire_value(item) for item in history.history]
    return ["/".join(filter(None, (value["type"], value["payload"].get("type")))) for value in values]


def what_it_gives(path: Path) -> dict[str, Any]:
    state = load_rollout(path)
    assert state.meta is not None
    return {
        "id": state.meta.id,
        "status": state.status.to_wire(),
        "tokens": None if state.usage is None else state.usage.total_token_usage.total_tokens,
        "is_counted": state.is_counted,
        "next_ordinal": state.next_ordinal,
        "pending": [wire_value(item) for accepted in state.pending for item in accepted.items],
        "lines": kinds_of(path),
        "history": [wire_value(item) for item in state.history],
    }


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem[-24:])
def test_each_form_gives_what_it_always_gave(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    found = what_it_gives(path)
    assert found == expected
    assert json.dumps(found["history"]) == json.dumps(expected["history"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem[-24:])
def test_each_form_is_resumed_with_its_history(path: Path, tmp_path: Path) -> None:
    day = tmp_path / "sessions" / "2026" / "11" / "20"
    day.mkdir(parents=True)
    for each in path.parent.glob("*.jsonl"):
        (day / each.name).write_bytes(each.read_bytes())
    expected = json.loads(path.with_suffix(".json").read_text())
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), day / path.name).get(timeout=WAIT_S).thread
        assert thread.thread_id == expected["id"]
        thread.run("more").get(timeout=WAIT_S)
    whole = path.read_bytes()
    whole = whole[: whole.rindex(b"\n") + 1]  # a torn last line is set aside
    assert (day / path.name).read_bytes().startswith(whole)
    sent = [wire_value(item) for item in model.prompts[0].input]
    assert [item for item in sent if item in expected["history"]] == expected["history"]
    last = load_rollout(day / path.name).history[-2]
    assert isinstance(last, Message)
    assert last.text == "more"


def test_crc_is_that_of_the_bytes_before_it() -> None:
    lines = (DATA / "forms" / "ours_crc.jsonl").read_bytes().splitlines()
    assert len(lines) > 9
    for line in lines:
        before, _, crc = line.rpartition(b',"crc":')
        assert crc == b"%d}" % crc32(before)


def test_history_is_the_same_with_and_without_crc() -> None:
    plain, checked = (what_it_gives(DATA / "forms" / f"{name}.jsonl") for name in ("ours", "ours_crc"))
    assert plain == checked
