from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.config import Config
from codex_actors.context import build_initial_context, context_changes, turn_context
from codex_actors.protocol.history import TurnContextItem
from codex_actors.protocol.items import FunctionCall, InputText, Message, OutputText, ResponseItem

FULL = Config(cwd=Path("/work"), developer_instructions="be kind", user_instructions="use tabs")


def message(role: str, *texts: str) -> Message:
    return Message(role=role, content=tuple(InputText(text=text) for text in texts))


DEVELOPER = message("developer", "be kind")
INSTRUCTIONS = message("user", "# AGENTS.md instructions for /work\n\n<INSTRUCTIONS>\nuse tabs\n</INSTRUCTIONS>")
ENVIRONMENT = message("user", "<environment_context>\n  <cwd>/work</cwd>\n</environment_context>")


def test_initial_context_has_three_messages() -> None:
    assert build_initial_context(FULL) == (DEVELOPER, INSTRUCTIONS, ENVIRONMENT)


@pytest.mark.parametrize("text", [None, ""])
def test_no_instructions_give_no_message(text: str | None) -> None:
    config = Config(cwd=Path("/work"), developer_instructions=text, user_instructions=text)
    assert build_initial_context(config) == (ENVIRONMENT,)


def test_folder_is_the_argument_then_the_config_then_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"<cwd>{tmp_path}</cwd>" in build_initial_context(Config())[0].text
    assert "<cwd>/a</cwd>" in build_initial_context(Config(cwd=Path("/a")))[0].text
    assert "<cwd>/b</cwd>" in build_initial_context(Config(cwd=Path("/a")), cwd=Path("/b"))[0].text


def test_folder_is_escaped_in_xml_only() -> None:
    config = Config(cwd=Path("/a&b<c>"), user_instructions="x")
    instructions, environment = build_initial_context(config)
    assert instructions.text.startswith("# AGENTS.md instructions for /a&b<c>\n")
    assert "<cwd>/a&amp;b&lt;c&gt;</cwd>" in environment.text


def test_undecodable_folder_becomes_json_text() -> None:
    cwd = Path(os.fsdecode(b"/a\xff"))
    (environment,) = build_initial_context(Config(), cwd=cwd)
    assert "<cwd>/a\ufffd</cwd>" in environment.model_dump_json()
    assert turn_context(Config(), "m", cwd=cwd).cwd == "/a\ufffd"


def test_fresh_thread_gets_everything() -> None:
    assert context_changes(FULL, ()) == build_initial_context(FULL)


def test_unchanged_context_is_not_repeated() -> None:
    history: tuple[ResponseItem, ...] = (
        *build_initial_context(FULL),
        message("user", "hi"),
        FunctionCall(name="f", arguments="", call_id="c"),
    )
    assert context_changes(FULL, history) == ()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(cwd=Path("/work"), developer_instructions="be brief", user_instructions="use tabs"), [0]),
        (Config(cwd=Path("/work"), developer_instructions="be kind", user_instructions="use spaces"), [1]),
        (Config(cwd=Path("/else"), developer_instructions="be kind", user_instructions="use tabs"), [1, 2]),
        (Config(cwd=Path("/work")), []),
    ],
)
def test_only_changed_messages_are_repeated(config: Config, expected: list[int]) -> None:
    context = build_initial_context(config)
    assert context_changes(config, build_initial_context(FULL)) == tuple(context[index] for index in expected)


def test_newest_of_a_kind_decides() -> None:
    other = message("user", "<environment_context>\n  <cwd>/else</cwd>\n</environment_context>")
    assert context_changes(FULL, (DEVELOPER, INSTRUCTIONS, ENVIRONMENT, other)) == (ENVIRONMENT,)
    assert context_changes(FULL, (DEVELOPER, INSTRUCTIONS, other, ENVIRONMENT)) == ()


def test_parts_of_one_message_count_each() -> None:
    joined = message("user", INSTRUCTIONS.text, ENVIRONMENT.text)
    assert context_changes(FULL, (DEVELOPER, joined)) == ()


def test_texts_of_other_roles_do_not_count() -> None:
    quoted: tuple[ResponseItem, ...] = (
        Message(role="assistant", content=(OutputText(text=ENVIRONMENT.text),)),
        message("developer", ENVIRONMENT.text),
    )
    assert ENVIRONMENT in context_changes(FULL, quoted)


TEXTS = st.none() | st.sampled_from(["", "a", "b"])
CONFIGS = st.builds(
    Config,
    cwd=st.sampled_from([Path("/a"), Path("/b")]),
    developer_instructions=TEXTS,
    user_instructions=TEXTS,
)


@given(configs=st.lists(CONFIGS, min_size=1, max_size=5))
def test_applied_changes_leave_nothing_to_change(configs: list[Config]) -> None:
    history: tuple[ResponseItem, ...] = ()
    for config in configs:
        history += (*context_changes(config, history), message("user", "hi"))
        assert context_changes(config, history) == ()


def test_turn_context_states_what_is_true() -> None:
    schema = {"type": "object"}
    assert turn_context(FULL, "gpt", schema) == TurnContextItem(
        cwd="/work",
        approval_policy="never",
        sandbox_policy={"type": "danger-full-access"},
        model="gpt",
        user_instructions="use tabs",
        developer_instructions="be kind",
        final_output_json_schema=schema,
    )
