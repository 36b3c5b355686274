from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ManagerConfig, ScriptedModel, ThreadManager, tool
from codex_actors.errors import StreamError, TurnFailed
from codex_actors.model.provider import Completed, ItemDone, Retrying, TextDelta
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageItem,
    AgentText,
    Error,
    Event,
    FunctionCallItem,
    ItemCompleted,
    TaskComplete,
    TaskStarted,
    TokenUsage,
    TurnAborted,
)
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    ImageInput,
    LocalShellCall,
    Message,
    OutputText,
    Reasoning,
    ResponseItem,
    SummaryText,
    TextInput,
    Verbatim,
)
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.streams import EventStream

WAIT_S = 10.0
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
ENDS = (TaskComplete, TurnAborted)


@tool
def look() -> str:
    return "seen"


def said(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def turn_of(stream: EventStream) -> list[Event]:
    """The events up to the end of a turn, that one included."""
    events: list[Event] = []
    while not events or not isinstance(events[-1].msg, ENDS):
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        events.append(event)
    return events


def untimed(msg: Any) -> Any:
    return msg.model_copy(update={"duration_ms": None, "time_to_first_token_ms": None})


def kinds(events: list[Event]) -> list[str]:
    return [event.msg.type for event in events]


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def named(lines: list[dict[str, Any]]) -> list[str]:
    return [f"{line['type']}/{line['payload'].get('type', '-')}" for line in lines]


def test_one_answer_gives_exactly_these_events() -> None:
    with ThreadManager.for_testing(ScriptedModel(["hello"])) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        result = thread.run("hi").get(timeout=WAIT_S)
        events = turn_of(stream)
    assert kinds(events) == [
        "task_started",
        "user_message",
        "item_started",
        "agent_message_delta",
        "item_completed",
        "agent_message",
        "token_count",
        "task_complete",
    ]
    assert {event.id for event in events} == {result.turn_id}
    assert untimed(events[-1].msg) == TaskComplete(turn_id=result.turn_id, last_agent_message="hello")


def test_result_and_last_event_say_how_long_it_took() -> None:
    with ThreadManager.for_testing(ScriptedModel(["hello", []])) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        result = thread.run("hi").get(timeout=WAIT_S)
        msg = turn_of(stream)[-1].msg
        silent = thread.run("hi").get(timeout=WAIT_S)
    assert isinstance(msg, TaskComplete)
    assert result.time_to_first_token_s is not None
    assert 0 < result.time_to_first_token_s <= result.duration_s
    assert msg.duration_ms == int(result.duration_s * 1000)
    assert msg.time_to_first_token_ms == int(result.time_to_first_token_s * 1000)
    assert silent.time_to_first_token_s is None


def test_one_answer_gives_exactly_these_lines() -> None:
    with ThreadManager.for_testing(ScriptedModel(["hello", "again"])) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hi").get(timeout=WAIT_S)
        first = lines_of(thread.rollout_path)
        thread.run("once more").get(timeout=WAIT_S)
        second = lines_of(thread.rollout_path)[len(first) :]
    turn = [
        "response_item/message",
        "event_msg/user_message",
        "turn_context/-",
        "response_item/message",
        "event_msg/agent_message",
        "event_msg/token_count",
    ]
    assert named(first) == ["session_meta/-", "response_item/message", *turn]
    assert first[1]["payload"]["content"][0]["text"].startswith("<environment_context>")
    assert named(second) == turn


def test_nothing_is_on_disk_before_first_turn() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.rollout_path is not None
        assert not thread.rollout_path.exists()
        thread.run("hi").get(timeout=WAIT_S)
        assert thread.rollout_path.exists()


def test_ephemeral_thread_has_no_file() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        thread = manager.start_thread(Config(ephemeral=True)).get().thread
        thread.run("hi").get(timeout=WAIT_S)
        assert thread.rollout_path is None
        assert manager.codex_home is not None
        assert not (manager.codex_home / "sessions").exists()


def test_result_holds_what_the_turn_added() -> None:
    usage = TokenUsage(input_tokens=5, output_tokens=2, total_tokens=7)
    model = ScriptedModel([[Reasoning(summary=(SummaryText(text="hm"),)), CALL], "done"], usage=usage)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
        total = thread.total_token_usage()
    assert [item.type for item in result.items] == ["reasoning", "function_call", "function_call_output", "message"]
    assert result.text == "done"
    assert result.status == AgentStatus.completed("done")
    assert result.error is None
    assert result.raise_for_error() is result
    assert result.usage == usage + usage == total


def test_tool_call_gives_items_and_output_in_order() -> None:
    with ThreadManager.for_testing(ScriptedModel([[CALL], "done"])) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        stream = thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        events = turn_of(stream)
    items = [event.msg.item for event in events if isinstance(event.msg, ItemCompleted)]
    assert items[0] == FunctionCallItem(id="c1", name="look", arguments="{}", output="seen", success=True)
    assert isinstance(items[1], AgentMessageItem)
    assert items[1].content == (AgentText(text="done"),)
    assert kinds(events)[2:5] == ["item_started", "token_count", "item_completed"]


def test_outputs_are_recorded_in_call_order() -> None:
    calls = [FunctionCall(name="look", arguments="{}", call_id=f"c{number}") for number in range(5)]
    model = ScriptedModel([calls, "done"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        thread.run("hi").get(timeout=WAIT_S)
    outputs = [item.call_id for item in model.prompts[1].input if isinstance(item, FunctionCallOutput)]
    assert outputs == ["c0", "c1", "c2", "c3", "c4"]


def test_calls_without_a_tool_are_answered() -> None:
    answer: list[ResponseItem] = [
        CALL,
        CustomToolCall(call_id="c2", name="patch", input="x"),
        LocalShellCall(call_id="c3", status="completed", action={"type": "exec"}),
    ]
    model = ScriptedModel([answer, "done"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
    closing = (FunctionCallOutput, CustomToolCallOutput)
    outputs = [item.output for item in model.prompts[1].input if isinstance(item, closing)]
    assert outputs == ["unsupported call: look", "unsupported call: patch", "unsupported call: local_shell"]


def test_prompt_is_the_whole_history_in_order() -> None:
    model = ScriptedModel(["one", "two"], keep_prompts=True)
    config = Config(base_instructions="Be brief.", developer_instructions="D", user_instructions="U", tools=(look,))
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(config).get().thread
        thread.run("first").get(timeout=WAIT_S)
        thread.run("second").get(timeout=WAIT_S)
    prompt = model.prompts[1]
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    assert [item.role for item in prompt.input if isinstance(item, Message)][:3] == ["developer", "user", "user"]
    assert texts[3:] == ["first", "one", "second"]
    assert (prompt.instructions, prompt.thread_id, prompt.model) == ("Be brief.", thread.thread_id, "scripted")
    assert [tool["name"] for tool in prompt.tools] == ["look"]


def test_images_reach_model_and_watchers() -> None:
    model = ScriptedModel(["nice"], keep_prompts=True)
    image = "data:image/png;base64,AA=="
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        thread.run([TextInput(text="see"), ImageInput(image_url=image)]).get(timeout=WAIT_S)
        event = turn_of(stream)[1].msg
    assert [part.type for part in model.prompts[0].input[-1].content] == ["input_text", "input_image"]  # type: ignore[union-attr]
    assert (event.message, event.images) == ("see", (image,))  # type: ignore[union-attr]


def test_unknown_item_is_kept_and_sent_back() -> None:
    unknown = Verbatim(raw={"type": "hologram", "depth": 3})
    model = ScriptedModel([[unknown, said("ok")], "two"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hi").get(timeout=WAIT_S)
        thread.run("again").get(timeout=WAIT_S)
        lines = lines_of(thread.rollout_path)
    assert unknown in model.prompts[1].input
    assert {"type": "hologram", "depth": 3} in [line["payload"] for line in lines if line["type"] == "response_item"]


def test_retry_notice_does_not_end_the_turn() -> None:
    async def answer(prompt: Any) -> Any:
        yield TextDelta("he")
        yield Retrying("Reconnecting... 1/5")
        yield ItemDone(said("hello"))
        yield Completed(None)

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        assert thread.run("hi").get(timeout=WAIT_S).text == "hello"
        events = turn_of(stream)
    assert [event.msg.message for event in events if event.msg.type == "stream_error"] == ["Reconnecting... 1/5"]  # type: ignore[union-attr]
    assert [event.msg.message for event in events if isinstance(event.msg, AgentMessage)] == ["hello"]


def fail_after_call(prompt: Any) -> Any:
    raise StreamError("connection reset")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([], "stream disconnected before completion: the script has no answer left (used 0)"),
        ([fail_after_call], "stream disconnected before completion: connection reset"),
        ([[CALL], fail_after_call], "stream disconnected before completion: connection reset"),
        ([lambda prompt: 7], "TypeError: the answer of model 'scripted' is a value of type int"),
    ],
)
def test_failed_turn_ends_once_with_its_error(script: list[Any], error: str) -> None:
    with ThreadManager.for_testing(ScriptedModel(script)) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        stream = thread.events()
        result = thread.run("hi").get(timeout=WAIT_S)
        events = turn_of(stream)
        status = thread.agent_status()
        lines = lines_of(thread.rollout_path)
    assert result.error is not None
    assert result.error.startswith(error)
    assert isinstance(events[0].msg, TaskStarted)
    info = {"response_stream_disconnected": {"http_status_code": None}} if result.cause is not None else None
    assert events[-2].msg == Error(message=result.error, codex_error_info=info)
    assert untimed(events[-1].msg) == TaskComplete(turn_id=result.turn_id, error=result.error)
    assert (result.cause is None) == result.error.startswith("TypeError")
    assert [event for event in events if isinstance(event.msg, ENDS)] == events[-1:]
    assert status == result.status == AgentStatus.errored(result.error)
    with pytest.raises(TurnFailed, match=result.turn_id):
        result.raise_for_error()
    calls = [line for line in lines if line["payload"].get("type") == "function_call"]
    outputs = [line for line in lines if line["payload"].get("type") == "function_call_output"]
    assert len(calls) == len(outputs)


def test_model_error_right_after_call_closes_it() -> None:
    async def answer(prompt: Any) -> Any:
        yield ItemDone(CALL)
        raise StreamError("gone")

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
        lines = lines_of(thread.rollout_path)
    assert result.items == (CALL, FunctionCallOutput(call_id="c1", output="aborted"))
    assert [line["payload"]["output"] for line in lines if "output" in line["payload"]] == ["aborted"]


def test_next_turn_works_after_a_failed_one() -> None:
    with ThreadManager.for_testing(ScriptedModel([fail_after_call, "fine"])) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("one").get(timeout=WAIT_S).error is not None
        assert thread.run("two").get(timeout=WAIT_S).text == "fine"
        assert thread.agent_status() == AgentStatus.completed("fine")


def test_turn_past_its_limit_fails_with_it() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager(model=model, config=ManagerConfig(turn_timeout_s=0.05)) as manager:
        thread = manager.start_thread(Config()).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
        gate.open()
        assert result.error is not None
        assert "0.05 s" in result.error
        assert thread.run("again").get(timeout=WAIT_S).text == "echo: again"
