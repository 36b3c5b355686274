from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict

from codex_actors.errors import RolloutError
from codex_actors.protocol.events import (
    TaskComplete,
    ThreadRolledBack,
    TokenCount,
    TokenUsage,
    TokenUsageInfo,
    TurnAborted,
    UserMessage,
)
from codex_actors.protocol.history import (
    Compacted,
    InputAccepted,
    ResponseItemLine,
    Resumed,
    SessionMeta,
    TurnContextItem,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    FunctionCall,
    FunctionCallOutput,
    GhostSnapshot,
    InputText,
    Message,
    OutputText,
    TextInput,
    Verbatim,
)
from codex_actors.protocol.wire import wire_value
from codex_actors.rollout.encode import encode_body, encode_line
from codex_actors.rollout.load import SKIP_BYTES, load_rollout, replayed_lines
from codex_actors.rollout.payloads import item_in
from codex_actors.rollout.reader import get_rollout_history, items_of
from codex_actors.rollout.replay import replayed_items

DATA = Path(__file__).parent / "data"
TOOLS = Path(__file__).parents[3] / "shared" / "codex" / "tools"
STAMP = "2026-01-08T10:11:12.123Z"
ROOT_ID = "01a30000-0000-7000-8000-00000000000a"
FORK_ID = "01a30000-0000-7000-8000-00000000000b"


def user(text: str) -> Message:
    return Message(role="user", content=(InputText(text=text),))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def texts(path: Path) -> list[str]:
    return [item.text for item in load_rollout(path).history if isinstance(item, Message)]


def files(thread_id: str) -> list[Path]:
    return sorted(DATA.glob(f"*{thread_id}*.jsonl"))


USAGE = TokenUsageInfo(total_token_usage=TokenUsage(total_tokens=7), last_token_usage=TokenUsage(total_tokens=7))
SAID = st.sampled_from(["a", "b", "<environment_context>", "# AGENTS.md instructions for /"])
ITEM = st.one_of(
    st.builds(user, SAID),
    st.builds(assistant, SAID),
    st.builds(FunctionCall, name=SAID, arguments=st.just("{}"), call_id=st.sampled_from("12")),
    st.builds(FunctionCallOutput, call_id=st.sampled_from("12"), output=SAID),
    st.just(GhostSnapshot(ghost_commit={"id": "x"})),
)
LINE = st.one_of(
    ITEM,
    st.builds(ResponseItemLine, payload=ITEM, submission_id=st.sampled_from(["s1", "s2"])),
    st.builds(ThreadRolledBack, num_turns=st.integers(-1, 4)),
    st.builds(Compacted, message=SAID, replacement_history=st.none() | st.lists(ITEM, max_size=3).map(tuple)),
    st.builds(TokenCount, info=st.none() | st.just(USAGE)),
    st.builds(TaskComplete, turn_id=SAID, last_agent_message=st.none() | SAID),
    st.just(TurnAborted(reason="interrupted")),
    st.builds(UserMessage, message=SAID),
    st.builds(InputAccepted, submission_id=st.sampled_from(["s1", "s2"]), items=st.just((TextInput(text="x"),))),
    st.builds(TurnContextItem, cwd=SAID, approval_policy=SAID, sandbox_policy=st.just({}), model=SAID),
    st.just(Verbatim(raw={"type": "world_state", "payload": {"type": "compacted"}})),
)


@settings(max_examples=300)
@given(st.lists(LINE, max_size=14), st.booleans())
def test_scan_agrees_with_replay(lines: list[Any], is_spaced: bool) -> None:
    bodies = [encode_body(line) for line in lines]
    whole = [encode_line(STAMP, body)[:-1] for body in bodies]
    if is_spaced:  # the form of another program
        whole = [json.dumps(dict(reversed(json.loads(line).items()))).encode() for line in whole]
    found, rule = replayed_lines(whole), replayed_items(items_of(bodies))
    assert found.history == rule.history
    assert (found.status, found.usage, found.pending) == (rule.status, rule.usage, rule.pending)
    assert found.is_counted == rule.is_counted
    assert found.context is None or rule.context is not None
    assert found.summaries <= rule.summaries


def test_a_summary_keeps_the_newest_words_of_users() -> None:
    long = [user(letter * 50_000) for letter in "abc"]
    lines: list[Any] = [user("<environment_context>"), *long, Compacted(message="sum"), user("d")]
    bodies = [encode_body(line) for line in lines]
    found = replayed_lines([encode_line(STAMP, body)[:-1] for body in bodies])
    assert found.history == replayed_items(items_of(bodies)).history
    assert [item.text[:3] for item in found.history if isinstance(item, Message)] == ["<en", "bbb", "ccc", "sum", "d"]


def test_each_captured_file_gives_the_replayed_history(captured: Path) -> None:
    found, whole = load_rollout(captured), get_rollout_history(captured)
    assert isinstance(whole, Resumed)
    rule = replayed_items(whole.history)
    assert found.history[len(found.history) - len(rule.history) :] == rule.history
    assert (found.status, found.usage, found.context) == (rule.status, rule.usage, rule.context)


def test_each_captured_history_is_what_resume_check_wants(captured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (TOOLS / "resume_check.py").exists():
        pytest.skip(f"no resume_check.py in {TOOLS}")
    monkeypatch.syspath_prepend(str(TOOLS))
    rule: Any = __import__("resume_check")
    others = [str(path) for path in captured.parent.glob("*.jsonl")]
    want = [rule.key(item) for item in rule.expected_history(rule.chain(str(captured), others))]
    wire = [wire_value(item) for item in load_rollout(captured).history]
    got = [rule.key(item) for item in wire if not rule.is_context(item)]
    assert rule.subsequence(want, got) == []
    sys.modules.pop("resume_check", None)


def test_each_captured_item_keeps_its_value_and_order(captured: Path) -> None:
    for line in captured.read_bytes().splitlines():
        value = json.loads(line)
        if value["type"] == "response_item":
            item = item_in(line)
            assert item is not None
            assert json.dumps(wire_value(item)) == json.dumps(value["payload"])


@pytest.mark.parametrize(
    "payload",
    [
        {"content": None, "type": "reasoning", "new": {"b": None, "a": 1}, "summary": [], "encrypted_content": None},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x", "more": None}], "id": None},
        {"name": "f", "type": "function_call", "call_id": "1", "arguments": "{}", "namespace": None},
        {"type": "hologram", "z": None, "a": [None]},
        {"type": "local_shell_call", "call_id": None, "status": "s", "action": {"env": None}},
        {
            "type": "message",
            "role": "user",
            "content": [{"text": "x", "type": "input_text"}, {"type": "hologram", "z": 1}],
        },
        {"type": "message", "content": [{"type": "input_image", "detail": None, "image_url": "x"}], "role": "user"},
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"text": "x", "more": [None], "type": "input_text"}],
        },
        {"type": "message", "raw": {"b": 1, "a": None}, "role": "user", "content": []},
    ],
)
def test_an_item_keeps_nulls_unknown_fields_and_order(payload: dict[str, Any]) -> None:
    item = item_in(json.dumps({"type": "response_item", "payload": payload}).encode())
    assert item is not None
    assert json.dumps(wire_value(item)) == json.dumps(payload)
    assert wire_value(pickle.loads(pickle.dumps(item))) == payload


def test_a_replacement_keeps_nulls_unknown_fields_and_order() -> None:
    kept = [{"role": "user", "type": "message", "content": [{"text": "x", "type": "input_text"}], "phase": None}]
    payload = {"message": "sum", "replacement_history": kept, "window": None}
    line = json.dumps({"timestamp": STAMP, "type": "compacted", "payload": payload})
    assert json.dumps([wire_value(item) for item in replayed_lines([line.encode()]).history]) == json.dumps(kept)


def test_a_broken_field_of_a_model_is_seen() -> None:
    class Forgetful(Message):
        model_config = ConfigDict(extra="ignore")

    value: dict[str, Any] = {"type": "message", "role": "user", "content": [], "phase": None}
    assert wire_value(Message.model_validate(value)) == value
    assert wire_value(Forgetful.model_validate(value)) != value


def test_a_fork_begins_with_its_parents_lines() -> None:
    (fork,) = files(FORK_ID)
    state = load_rollout(fork)
    assert [text for text in texts(fork) if "<" not in text] == [
        "one",
        "first",
        "two",
        "second",
        "four in the fork",
        "fourth",
    ]
    assert state.meta is not None
    assert (state.meta.id, len(state.segments)) == (FORK_ID, 2)
    last = json.loads(fork.read_bytes().splitlines()[-1])
    assert state.next_ordinal == last["ordinal"] + 1


def test_a_revert_goes_on_in_a_file_of_its_own() -> None:
    _, reverted = files(ROOT_ID)
    state = load_rollout(reverted)
    assert [text for text in texts(reverted) if "<" not in text] == ["one", "first", "two again", "fifth"]
    assert state.meta is not None
    assert state.meta.id == ROOT_ID


def test_a_chain_of_forks_is_read_from_its_root() -> None:
    path = next(DATA.glob("*00c.jsonl"))
    assert texts(path)[-4:] == ["four in the fork", "fourth", "six in the fork of the fork", "sixth"]
    assert len(load_rollout(path).segments) == 3


def test_a_fork_does_not_pass_for_its_parent(tmp_path: Path) -> None:
    own, parent = (
        SessionMeta(id=ThreadId(each), timestamp=STAMP, cwd="/", originator="o", cli_version="0")
        for each in (FORK_ID, ROOT_ID)
    )
    path = tmp_path / f"rollout-2026-01-08T10-11-12-{FORK_ID}.jsonl"
    path.write_bytes(encode_line(STAMP, own)[5:] + encode_line(STAMP, parent) + encode_line(STAMP, user("a")))
    with pytest.raises(RolloutError, match=f"its own meta line is damaged; the next one is of thread {ROOT_ID}"):
        load_rollout(path)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    (fork,) = files(FORK_ID)
    copy = tmp_path / fork.name
    copy.write_bytes(fork.read_bytes())
    with pytest.raises(RolloutError, match=f"{ROOT_ID}.*missing"):
        load_rollout(copy)


@pytest.mark.parametrize(
    "change", [lambda data: b"", lambda data: b" \n\n", lambda data: b"\xff\xfe" * 9, lambda data: b"{}\n"]
)
def test_what_is_no_rollout_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(change(b""))
    with pytest.raises(RolloutError) as found:
        load_rollout(path)
    with pytest.raises(RolloutError) as rule:
        get_rollout_history(path)
    assert found.value.reason == rule.value.reason


def test_damage_costs_its_lines_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = files(ROOT_ID)[0].read_bytes().splitlines(keepends=True)
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(b"".join([*source[:3], b"{broken\n", b"\n", *source[3:], source[5][:40]]))
    assert texts(path) == texts(files(ROOT_ID)[0])
    assert "skipped 2 broken line(s): 4, " in caplog.text


def test_a_large_file_is_read_from_its_last_compaction(tmp_path: Path) -> None:
    root = files(ROOT_ID)[0].read_bytes().splitlines(keepends=True)
    early = encode_line(STAMP, InputAccepted(submission_id="s0", items=(TextInput(text="early"),)))
    done = [encode_line(STAMP, InputAccepted(submission_id="s1", items=(TextInput(text="done"),)))]
    done.append(encode_line(STAMP, ResponseItemLine(payload=user("done"), submission_id="s1")))
    filler = [encode_line(STAMP, assistant('"compacted" ' * 4_000))] * (SKIP_BYTES // 40_000)
    compacted = encode_line(STAMP, Compacted(message="sum", replacement_history=(user("kept"), user("sum"))))
    path = tmp_path / "rollout.jsonl"
    tail = [encode_line(STAMP, assistant("after")), encode_line(STAMP, ThreadRolledBack(num_turns=1))]
    path.write_bytes(b"".join([*root, early, *done, *filler, compacted, *tail]))
    whole = get_rollout_history(path)
    assert isinstance(whole, Resumed)
    found, rule = load_rollout(path), replayed_items(whole.history)
    assert found.history == rule.history == (user("kept"),)
    assert (found.status, found.usage, found.context) == (rule.status, rule.usage, rule.context)
    assert (found.pending, found.meta, found.next_ordinal) == (rule.pending, rule.meta, len(root))


def test_a_damaged_compaction_hides_nothing_before_it(tmp_path: Path) -> None:
    root = files(ROOT_ID)[0].read_bytes()
    filler = [encode_line(STAMP, user("x" * 40_000))] * (SKIP_BYTES // 40_000 + 1)
    compacted = encode_line(STAMP, Compacted(message="sum", replacement_history=(user("kept"),)))
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(root + b"".join([*filler, compacted.replace(b"kept", b"kepT"), encode_line(STAMP, user("last"))]))
    whole = get_rollout_history(path)
    assert isinstance(whole, Resumed)
    assert load_rollout(path).history == replayed_items(whole.history).history


def test_events_are_parsed_when_looked_at() -> None:
    events = load_rollout(files(ROOT_ID)[0]).events
    assert events is not None
    assert [event.type for event in events[:2]] == ["task_started", "item_completed"]
    assert events == tuple(events)
    assert len(pickle.loads(pickle.dumps(events))) == len(events)


@pytest.mark.parametrize("more", ["_", "_" * 7, "_" * 8, "_" * 60])
@pytest.mark.parametrize("tag", ["thread_rolled_back", "x"])
def test_lines_that_begin_alike_are_told_apart(tag: str, more: str) -> None:
    def rolled_back(name: str) -> bytes:
        return f'{{"timestamp":"{STAMP}","type":"event_msg","payload":{{"type":"{name}","num_turns":1}}}}'.encode()

    one, two = encode_line(STAMP, user("one")), encode_line(STAMP, user("two"))
    lines = [one, two, rolled_back(tag + more), rolled_back(tag + more)]
    assert len(replayed_lines(lines).history) == 2
    lines += [rolled_back("thread_rolled_back"), rolled_back(tag + more), two, rolled_back("thread_rolled_back")]
    assert len(replayed_lines(lines).history) == 1
