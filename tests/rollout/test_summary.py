from __future__ import annotations

from pathlib import Path

import pytest

from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import last_status, last_token_usage
from codex_actors.rollout.summary import Summary, name_parts, read_summary
from tests._kept_files import line, meta_line, thread_id_of, turn_lines, user_lines


def summary_of(path: Path, text: str) -> Summary:
    path.write_text(text)
    summary = read_summary(path)[1]
    assert summary is not None
    return summary


def test_plain_thread_is_summed_up(tmp_path: Path) -> None:
    text = meta_line(1) + turn_lines("First\n  words.") + turn_lines("Later.", tokens=25, model="newer")
    said = summary_of(tmp_path / "a", text)
    assert (said.preview, said.model, said.tokens, said.status) == ("First words.", "newer", 25, "completed")
    assert (said.cwd, said.source, said.parent_id, said.created_ms) == (
        "/home/user/project",
        "cli",
        None,
        1803895200000,
    )


def test_captured_file_is_summed_up_truly(captured: Path) -> None:
    items = get_rollout_history(captured).get_rollout_items()
    usage = last_token_usage(items)
    summary = read_summary(captured)[1]
    assert summary is not None
    assert summary.status == last_status(items).word
    assert summary.tokens == (None if usage is None else usage.total_token_usage.total_tokens)
    assert summary.preview
    assert summary.model
    assert summary.cwd.startswith("/")


@pytest.mark.parametrize("padding", [0, 3, 16_000, 16_384, 40_000, 300_000, 1_200_000])
def test_long_file_is_summed_up_alike(tmp_path: Path, padding: int) -> None:
    between = line("event_msg", type="agent_reasoning", text="x" * padding) if padding else ""
    said = summary_of(tmp_path / "a", meta_line(1) + turn_lines() + between + turn_lines("Last.", tokens=77))
    assert (said.preview, said.tokens, said.status) == ("Hello.", 77, "completed")


@pytest.mark.parametrize("instructions", [20_000, 900_000])
def test_long_first_line_is_read_whole(tmp_path: Path, instructions: int) -> None:
    said = summary_of(tmp_path / "a", meta_line(1, instructions="x" * instructions) + turn_lines())
    assert said.preview == "Hello."


def test_turn_without_an_end_is_interrupted(tmp_path: Path) -> None:
    call = line("response_item", type="function_call", name="f", arguments="{}", call_id="1")
    assert summary_of(tmp_path / "a", meta_line(1) + turn_lines() + user_lines("On.") + call).status == "interrupted"
    long = "".join(call for _ in range(4000))
    assert summary_of(tmp_path / "b", meta_line(1) + user_lines("On.") + long).status == "interrupted"


def test_failed_turn_is_errored(tmp_path: Path) -> None:
    end = line("event_msg", type="task_complete", turn_id="1", error="no network")
    assert summary_of(tmp_path / "a", meta_line(1) + user_lines("On.") + end).status == "errored"


def test_thread_without_a_turn_waits(tmp_path: Path) -> None:
    said = summary_of(tmp_path / "a", meta_line(1))
    assert (said.status, said.preview, said.model, said.tokens) == ("pending_init", "", None, None)


def test_damaged_lines_cost_only_themselves(tmp_path: Path) -> None:
    text = '{"torn\n\n[]\n{"type":"session_meta"}\n' + meta_line(1) + turn_lines("Here.") + '{"type":"event_m'
    assert summary_of(tmp_path / "a", text).preview == "Here."


@pytest.mark.parametrize("text", ["", "\n", "[1]\n", '{"type":"session_meta","payload":{"id":1}}\n', "\udc00"])
def test_file_without_meta_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert read_summary(path)[1] is None


def test_lineage_is_read_in_each_form(tmp_path: Path) -> None:
    spawn = {"parent_thread_id": thread_id_of(2), "depth": 1, "agent_path": "/root/a", "agent_nickname": "Ann"}
    new = summary_of(tmp_path / "a", meta_line(1, source={"subagent": {"thread_spawn": spawn}}))
    old = summary_of(tmp_path / "b", meta_line(1, parent_thread_id=thread_id_of(2), agent_path="/root/a"))
    assert (new.source, new.parent_id, new.agent_path) == ("subagent", thread_id_of(2), "/root/a")
    assert (old.source, old.parent_id, new.agent_nickname) == ("cli", thread_id_of(2), "Ann")


def test_names_of_rollouts_are_taken_apart() -> None:
    name = f"rollout-2027-03-01T10-00-00-{thread_id_of(1)}"
    assert name_parts(f"{name}.jsonl") == ("2027-03-01T10-00-00", thread_id_of(1))
    assert name_parts(f"{name}_01a2.jsonl") == ("2027-03-01T10-00-00", thread_id_of(1))
    assert [name_parts(each) for each in (f"{name}.jsonl.torn", "a.jsonl", "")] == [None, None, None]
