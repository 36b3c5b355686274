from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from codex_actors.compaction import (
    COMPACT_PROMPT,
    Summary,
    compaction_prompt,
    estimated_tokens,
    has_what_to_compact,
    summarize,
    without_oldest,
)
from codex_actors.config import Config
from codex_actors.context import build_initial_context
from codex_actors.errors import CodexError, ContextWindowExceeded, StreamError
from codex_actors.model.provider import Completed, ItemDone, Prompt, Retrying, TextDelta
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    LocalShellCall,
    Message,
    OutputText,
    ResponseItem,
    TextInput,
    user_message,
)

CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
OUTPUT = FunctionCallOutput(call_id="c1", output="seen")
SHELL = LocalShellCall(call_id="c2", status="completed", action={})
UNNAMED = LocalShellCall(status="completed", action={})
CUSTOM = CustomToolCall(call_id="c1", name="patch", input="x")
CUSTOM_OUTPUT = CustomToolCallOutput(call_id="c1", output="ok")
SAID = Message(role="assistant", content=(OutputText(text="hello"),))


def user(text: str) -> Message:
    return user_message((TextInput(text=text),))


def request(*history: ResponseItem, text: str | None = None) -> Prompt:
    prompt = Prompt(ThreadId("0193b5b8-0000-7000-8000-000000000001"), "m", "B", (), ({"name": "look"},), True, {})
    return compaction_prompt(prompt, history, text)


def steps_of(model: ScriptedModel, prompt: Prompt) -> list[Any]:
    async def collect() -> list[Any]:
        return [step async for step in summarize(prompt, model)]

    return asyncio.run(collect())


def test_prompt_shows_all_and_offers_no_tools() -> None:
    prompt = request(user("hi"), SAID)
    assert prompt.input[:-1] == (user("hi"), SAID)
    assert prompt.input[-1] == user(COMPACT_PROMPT)
    assert (prompt.tools, prompt.output_schema, prompt.instructions, prompt.subagent) == ((), None, "B", "compact")


def test_host_may_ask_in_its_own_words() -> None:
    assert request(user("hi"), text="Sum up.").input[-1] == user("Sum up.")


def test_summary_is_the_models_last_message() -> None:
    (summary,) = steps_of(
        ScriptedModel([[SAID, Message(role="assistant", content=(OutputText(text="all"),))]]), request()
    )
    assert isinstance(summary, Summary)
    assert (summary.text, summary.left_out) == ("all", 0)
    assert summary.usage is not None


@pytest.mark.parametrize("answer", ["  ", [CALL]])
def test_answer_without_text_is_no_summary(answer: Any) -> None:
    with pytest.raises(StreamError, match="no summary"):
        steps_of(ScriptedModel([answer]), request(user("hi")))


def test_retries_of_the_request_are_told() -> None:
    async def events(prompt: Prompt) -> Any:
        yield Retrying("Reconnecting... 1/5")
        async for event in ScriptedModel(["all"]).stream(prompt):
            yield event

    steps = steps_of(ScriptedModel(events), request(user("hi")))
    assert [type(step) for step in steps] == [Retrying, Summary]


def test_model_that_never_waits_does_not_keep_the_loop() -> None:
    came_round: list[bool] = []

    async def events(prompt: Prompt) -> Any:
        asyncio.get_running_loop().call_soon(came_round.append, True)
        for _ in range(1_000):
            yield TextDelta("x")
        yield ItemDone(Message(role="assistant", content=(OutputText(text=str(came_round)),)))
        yield Completed(None)

    assert steps_of(ScriptedModel(events), request(user("hi")))[0].text == "[True]"


def fits(most: int) -> ScriptedModel:
    def answer(prompt: Prompt) -> str:
        if len(prompt.input) > most:
            raise ContextWindowExceeded
        return "all"

    return ScriptedModel(answer, keep_prompts=True)


def test_what_is_too_long_loses_its_oldest_items() -> None:
    model = fits(3)
    (summary,) = steps_of(model, request(user("a"), CALL, OUTPUT, SAID, user("b")))
    assert model.prompts[-1].input == (SAID, user("b"), user(COMPACT_PROMPT))
    assert summary.left_out == 3


def test_what_never_fits_fails() -> None:
    model = fits(0)
    with pytest.raises(ContextWindowExceeded):
        steps_of(model, request(user("a"), SAID))
    assert model.requests == 2


def test_another_failure_of_the_model_is_passed_on() -> None:
    def fail(prompt: Prompt) -> str:
        raise StreamError("gone")

    with pytest.raises(CodexError, match="gone"):
        steps_of(ScriptedModel(fail), request(user("a")))


@pytest.mark.parametrize(
    ("items", "left"),
    [
        ((), ()),
        ((SAID, CALL, OUTPUT), (CALL, OUTPUT)),
        ((CALL, SAID, OUTPUT), (SAID,)),
        ((OUTPUT, SAID, CALL), (SAID,)),
        ((SHELL, FunctionCallOutput(call_id="c2", output="")), ()),
        ((CALL, CUSTOM_OUTPUT, CUSTOM, OUTPUT), (CUSTOM_OUTPUT, CUSTOM)),
        ((CUSTOM, OUTPUT, CUSTOM_OUTPUT), (OUTPUT,)),
        ((CALL, CALL, OUTPUT, OUTPUT), (CALL, OUTPUT)),
        ((UNNAMED, UNNAMED, SAID), (UNNAMED, SAID)),
        ((UNNAMED.model_copy(update={"id": "l1"}), SAID, FunctionCallOutput(call_id="l1", output="")), (SAID,)),
    ],
)
def test_oldest_item_leaves_with_its_pair(items: Sequence[ResponseItem], left: Sequence[ResponseItem]) -> None:
    assert without_oldest(items) == left


def test_initial_context_alone_is_nothing_to_compact() -> None:
    initial = build_initial_context(Config(developer_instructions="D", user_instructions="U"))
    assert not has_what_to_compact(initial)
    assert has_what_to_compact((*initial, user("hi")))
    assert has_what_to_compact((CALL,))


def test_estimate_grows_with_the_text() -> None:
    assert estimated_tokens([]) == 0
    assert 1000 <= estimated_tokens([user("x" * 4000)]) <= 1050
