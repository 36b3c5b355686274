from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ManagerConfig, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.errors import InputRefused
from codex_actors.protocol.events import Event, TaskComplete, TaskStarted, TurnAborted, UserMessage
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.streams import EventStream

WAIT_S = 10.0
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
ENDS = (TaskComplete, TurnAborted)


@tool
def look() -> str:
    return "seen"


def turn_of(stream: EventStream) -> list[Event]:
    events: list[Event] = []
    while not events or not isinstance(events[-1].msg, ENDS):
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        events.append(event)
    return events


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def user_texts(prompt: Any) -> list[str]:
    messages = [item for item in prompt.input if isinstance(item, Message) and item.role == "user"]
    return [item.text for item in messages if not item.text.startswith("<environment_context>")]


def test_input_during_turn_is_durable_before_its_answer() -> None:
    model = ScriptedModel([[CALL], "done"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        running = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        steered = thread.submit(UserInput("second")).get(timeout=WAIT_S)
        promised = lines_of(thread.rollout_path)[-1]
        assert promised["type"] == "codex_actors"
        assert promised["payload"]["type"] == "input_accepted"
        assert promised["payload"]["submission_id"] == steered
        assert promised["payload"]["items"] == [{"type": "text", "text": "second"}]
        gate.open()
        assert running.get(timeout=WAIT_S).text == "done"
        lines = lines_of(thread.rollout_path)
    assert [user_texts(prompt) for prompt in model.prompts] == [["first"], ["first", "second"]]
    taken = [index for index, line in enumerate(lines) if line.get("submission_id") == steered]
    answer = [index for index, line in enumerate(lines) if line["payload"].get("role") == "assistant"]
    assert len(taken) == 1
    assert lines[taken[0]]["type"] == "response_item"
    assert lines.index(promised) < taken[0] < answer[-1]


def test_steered_input_is_shown_in_the_running_turn() -> None:
    model = ScriptedModel([[CALL], "done"])
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        stream = thread.events()
        first = thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        thread.submit(UserInput("second")).get(timeout=WAIT_S)
        gate.open()
        events = turn_of(stream)
    assert {event.id for event in events} == {first}
    assert [event.msg.message for event in events if isinstance(event.msg, UserMessage)] == ["first", "second"]
    assert sum(isinstance(event.msg, TaskStarted) for event in events) == 1


def test_two_runs_share_one_result() -> None:
    model = ScriptedModel([[CALL], "done"])
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,))).get().thread
        first = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        second = thread.run("second")
        thread.submit(UserInput("third")).get(timeout=WAIT_S)
        gate.open()
        assert first.get(timeout=WAIT_S) == second.get(timeout=WAIT_S)
        assert model.requests == 2


def test_leftovers_start_the_next_turn_together() -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        first = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        second, third = thread.run("second"), thread.run("third")
        thread.submit(UserInput("fourth")).get(timeout=WAIT_S)
        gate.open()
        assert first.get(timeout=WAIT_S).text == "echo: first"
        assert second.get(timeout=WAIT_S).text == "echo: fourth"
        assert second.get() == third.get(timeout=WAIT_S)
        one, two = turn_of(stream), turn_of(stream)
    assert user_texts(model.prompts[1]) == ["first", "second", "third", "fourth"]
    assert one[-1].id == first.get().turn_id
    assert {event.id for event in two} == {second.get().turn_id} != {first.get().turn_id}


def test_leftovers_of_failed_turn_still_run() -> None:
    model = ScriptedModel([lambda prompt: 1 / 0, "fine"])  # type: ignore[list-item,return-value]
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        first = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        second = thread.run("second")
        thread.submit(UserInput("third")).get(timeout=WAIT_S)
        gate.open()
        assert first.get(timeout=WAIT_S).error is not None
        assert second.get(timeout=WAIT_S).text == "fine"


def test_inputs_beyond_64_wait_until_accepted() -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        pending = [thread.submit(UserInput(f"{number}")) for number in range(64)]
        late = [thread.submit(UserInput(f"late {number}")) for number in range(3)]
        for reply in pending:
            reply.get(timeout=WAIT_S)
        assert lines_of(thread.rollout_path)[-1]["payload"]["items"][0]["text"] == "63"
        assert not any(reply.done() for reply in late)
        gate.open()
        for reply in late:
            reply.get(timeout=WAIT_S)
        turn_of(stream)
        turn_of(stream)
    wanted = ["first", *(f"{number}" for number in range(64)), "late 0", "late 1", "late 2"]
    assert user_texts(model.prompts[1]) == wanted


def test_input_beyond_64_is_refused_at_its_deadline(tmp_path: Path) -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager(tmp_path, model=model, config=ManagerConfig(ask_timeout_s=0.5)) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        pending = [thread.submit(UserInput(f"{number}")) for number in range(64)]
        submitted, ran = thread.submit(UserInput("late submit")), thread.run("late run")
        for reply in pending:
            reply.get(timeout=WAIT_S)
        for late in (submitted, ran):
            with pytest.raises(InputRefused, match="64 inputs wait") as refused:
                late.get(timeout=WAIT_S)
            assert refused.value.retryable
        gate.open()
        turn_of(stream)
        turn_of(stream)
        text = thread.rollout_path.read_text()  # type: ignore[union-attr]
    assert user_texts(model.prompts[1]) == ["first", *(f"{number}" for number in range(64))]
    assert "late" not in text


def test_interrupt_behind_unstarted_input_asks_no_model() -> None:
    async def main() -> None:
        model = ScriptedModel(["fine"])
        async with ThreadManager.for_testing(model) as manager:
            thread = (await manager.start_thread(Config())).thread
            running, interrupted = thread.run("hi"), thread.submit(Interrupt())
            await asyncio.wait_for(_both(running, interrupted), WAIT_S)
            result = await running
            assert result.status == AgentStatus.INTERRUPTED == thread.agent_status()
            assert model.requests == 0
            lines = lines_of(thread.rollout_path)
            assert [line["payload"]["content"][0]["text"] for line in lines if "content" in line["payload"]][1:] == [
                "hi"
            ]
            assert lines[-1]["payload"] == {
                "type": "turn_aborted",
                "turn_id": result.turn_id,
                "reason": "interrupted",
            }
            assert (await asyncio.wait_for(_of(thread.run("again")), WAIT_S)).text == "fine"

    asyncio.run(main())


async def _of(reply: Any) -> Any:
    return await reply


async def _both(*replies: Any) -> None:
    for reply in replies:
        await reply


def test_interrupt_records_steered_input_without_asking_again() -> None:
    model = ScriptedModel(["never", "fine"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        first = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        second = thread.run("second")
        steered = thread.submit(UserInput("third"))
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert first.get(timeout=WAIT_S) == second.get(timeout=WAIT_S)
        assert first.get().status == AgentStatus.INTERRUPTED
        events = turn_of(stream)
        lines = lines_of(thread.rollout_path)
        assert model.requests == 1
        gate.open()
        assert thread.run("fourth").get(timeout=WAIT_S).text == "fine"
    assert [event.msg.message for event in events if isinstance(event.msg, UserMessage)] == ["first", "second", "third"]
    assert [line["payload"] for line in lines if line.get("submission_id") == steered.get()] != []
    assert lines[-1]["payload"]["type"] == "turn_aborted"
    assert user_texts(model.prompts[-1]) == ["first", "second", "third", "fourth"]


def test_accepted_input_without_item_is_pending_at_resume(tmp_path: Path) -> None:
    model = ScriptedModel()
    gate = model.hold()
    killed = tmp_path / "killed"
    with ThreadManager.for_testing(model, codex_home=tmp_path / "home") as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        thread.submit(UserInput("second")).get(timeout=WAIT_S)
        thread.submit(UserInput("third")).get(timeout=WAIT_S)
        # What a `kill -9` would leave behind now.
        shutil.copytree(tmp_path / "home", killed)
        gate.open()
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=killed) as manager:
        (path,) = killed.rglob("rollout-*.jsonl")
        new = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        assert new.thread.agent_status() == AgentStatus.INTERRUPTED
        assert model.requests == 0
        assert new.thread.run("fourth").get(timeout=WAIT_S).text == "echo: fourth"
        new.thread.run("fifth").get(timeout=WAIT_S)
        lines = lines_of(path)
    assert user_texts(model.prompts[0]) == ["first", "second", "third", "fourth"]
    assert user_texts(model.prompts[1]) == ["first", "second", "third", "fourth", "fifth"]
    promised = [line["payload"]["submission_id"] for line in lines if line["type"] == "codex_actors"]
    assert [line["submission_id"] for line in lines if "submission_id" in line] == promised


def test_pending_input_of_parent_is_not_forked() -> None:
    model = ScriptedModel(keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        thread.submit(UserInput("second")).get(timeout=WAIT_S)
        fork = manager.fork_thread(None, None, thread.thread_id).get(timeout=WAIT_S).thread
        gate.open()
        fork.run("mine").get(timeout=WAIT_S)
        asked = [prompt for prompt in model.prompts if prompt.thread_id == fork.thread_id]
    assert user_texts(asked[0]) == ["first", "mine"]


def test_output_schema_reaches_the_model() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run(UserInput("one", final_output_json_schema=schema)).get(timeout=WAIT_S)
        thread.run("two").get(timeout=WAIT_S)
    assert [prompt.output_schema for prompt in model.prompts] == [schema, None]
