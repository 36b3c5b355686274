from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from codex_actors import CodexThread, Config, EventStream, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.compaction import COMPACT_PROMPT, SUMMARY_PREFIX
from codex_actors.errors import ContextWindowExceeded, StreamError
from codex_actors.model.provider import Completed, ItemDone, Prompt
from codex_actors.protocol.events import Event, TaskComplete, TokenCount, TokenUsage, TurnAborted, Warning
from codex_actors.protocol.items import FunctionCall, Message, OutputText
from codex_actors.protocol.ops import Compact, ThreadRollback
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import model_history

WAIT_S = 10.0
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
ENDS = (TaskComplete, TurnAborted)


@tool
def look() -> str:
    return "seen"


def is_compaction(prompt: Prompt) -> bool:
    last = prompt.input[-1]
    return isinstance(last, Message) and last.text == COMPACT_PROMPT


def dialogue(prompt: Prompt) -> list[str]:
    """What the model sees behind the environment, short."""
    found = []
    for item in prompt.input:
        if isinstance(item, Message) and not item.text.startswith("<environment_context>"):
            found.append(item.text.replace(f"{SUMMARY_PREFIX}\n\n", "SUMMARY ").replace(COMPACT_PROMPT, "COMPACT"))
        elif not isinstance(item, Message):
            found.append(item.type)
    return found


def turn_of(stream: EventStream) -> list[Event]:
    events: list[Event] = []
    while not events or not isinstance(events[-1].msg, ENDS):
        event = stream.next_blocking(WAIT_S)
        assert event is not None
        events.append(event)
    return events


def compact(thread: CodexThread) -> list[str]:
    with thread.events() as stream:
        thread.submit(Compact()).get(timeout=WAIT_S)
        return [event.msg.type for event in turn_of(stream)]


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_compact_leaves_the_users_words_and_a_summary() -> None:
    model = ScriptedModel(["a1", "a2", "all of it", "a3"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        kinds = compact(thread)
        thread.run("u3").get(timeout=WAIT_S)
        compacted = [line for line in lines_of(thread.rollout_path) if line["type"] == "compacted"]
    assert kinds == ["task_started", "context_compacted", "token_count", "warning", "task_complete"]
    assert dialogue(model.prompts[2]) == ["u1", "a1", "u2", "a2", "COMPACT"]
    assert dialogue(model.prompts[3]) == ["u1", "u2", "SUMMARY all of it", "u3"]
    assert model.prompts[3].input[0] == model.prompts[0].input[0]
    assert len(compacted) == 1
    assert len(compacted[0]["payload"]["replacement_history"]) == 4


def test_second_compaction_does_not_keep_the_first_summary() -> None:
    model = ScriptedModel(["a1", "first", "a2", "second", "a3"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        compact(thread)
        thread.run("u2").get(timeout=WAIT_S)
        compact(thread)
        thread.run("u3").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "u2", "SUMMARY second", "u3"]


def test_rollback_behind_a_compaction_drops_the_summary() -> None:
    model = ScriptedModel(["a1", "a2", "all of it", "a3"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        compact(thread)
        thread.submit(ThreadRollback(num_turns=1)).get(timeout=WAIT_S)
        thread.run("u3").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "u2", "u3"]


def test_each_compaction_says_that_nothing_before_it_is_needed() -> None:
    with ThreadManager.for_testing(ScriptedModel(["a1", "first", "a2", "second"])) as manager:
        thread = manager.start_thread(Config()).get().thread
        for text in ("u1", "u2"):
            thread.run(text).get(timeout=WAIT_S)
            compact(thread)
        found = [line["payload"] for line in lines_of(thread.rollout_path) if line["type"] == "compacted"]
    assert [(each["window_number"], each["resume_metadata"]) for each in found] == [(1, {}), (2, {})]


@pytest.mark.parametrize("way", ["resume", "fork"])
def test_model_sees_the_same_after_resume_and_fork(way: str, tmp_path: Path) -> None:
    model = ScriptedModel(["a1", "all", "a2", "a3", "again", "a4"], keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        compact(thread)
        thread.run("u2").get(timeout=WAIT_S)
        path = thread.rollout_path
    assert path is not None
    with ThreadManager(tmp_path, model=model) as manager:
        new = manager.resume_thread_from_rollout(Config(), path) if way == "resume" else None
        thread = (new or manager.fork_thread(None, Config(), path)).get(timeout=WAIT_S).thread
        thread.run("u3").get(timeout=WAIT_S)
        compact(thread)
        thread.run("u4").get(timeout=WAIT_S)
    assert dialogue(model.prompts[3]) == ["u1", "SUMMARY all", "u2", "a2", "u3"]
    assert dialogue(model.prompts[-1]) == ["u1", "u2", "u3", "SUMMARY again", "u4"]


def big(prompt: Prompt) -> Any:
    """Answers; says that a request took 100 tokens for each of its items."""

    async def events() -> Any:
        text = "all" if is_compaction(prompt) else f"a{len(prompt.input)}"
        yield ItemDone(Message(role="assistant", content=(OutputText(text=text),)))
        yield Completed(TokenUsage(total_tokens=100 * len(prompt.input)))

    return events()


def test_history_is_compacted_at_its_limit() -> None:
    model = ScriptedModel(big, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(auto_compact_token_limit=400)).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        stream = thread.events()
        result = thread.run("u3").get(timeout=WAIT_S)
        events = [event.msg for event in turn_of(stream)]
        counts = [msg.info for msg in events if isinstance(msg, TokenCount)]
    assert [is_compaction(prompt) for prompt in model.prompts] == [False, False, True, False]
    assert dialogue(model.prompts[2]) == ["u1", "a2", "u2", "a4", "COMPACT"]
    assert dialogue(model.prompts[3]) == ["u1", "u2", "SUMMARY all", "u3"]
    assert [item.text for item in result.items if isinstance(item, Message)] == ["a5"]
    assert [count.last_token_usage.total_tokens for count in counts if count is not None][1:] == [500]
    assert result.usage.total_tokens == 600 + 500


def test_nine_tenths_of_the_window_are_the_limit() -> None:
    model = ScriptedModel(big, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(model_context_window=444)).get().thread
        for text in ("u1", "u2", "u3"):
            thread.run(text).get(timeout=WAIT_S)
    assert [is_compaction(prompt) for prompt in model.prompts] == [False, False, True, False]


def test_history_is_compacted_between_two_requests_of_a_turn() -> None:
    def answer(prompt: Prompt) -> Any:
        return "all" if is_compaction(prompt) else [CALL] if len(model.prompts) == 1 else "done"

    model = ScriptedModel(answer, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,), auto_compact_token_limit=1)).get().thread
        result = thread.run("u1").get(timeout=WAIT_S)
    assert dialogue(model.prompts[1]) == ["u1", "function_call", "function_call_output", "COMPACT"]
    assert dialogue(model.prompts[2]) == ["u1", "SUMMARY all"]
    assert [item.type for item in result.items] == ["function_call", "function_call_output", "message"]


def limited(most: int) -> ScriptedModel:
    """Refuses what is longer, but for compactions."""

    def answer(prompt: Prompt) -> str:
        if len(prompt.input) > most and not is_compaction(prompt):
            raise ContextWindowExceeded
        return "all" if is_compaction(prompt) else f"a{len(prompt.input)}"

    return ScriptedModel(answer, keep_prompts=True)


def test_request_that_is_too_long_is_compacted_and_asked_again() -> None:
    model = limited(5)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("u1").get(timeout=WAIT_S).text == "a2"
        assert thread.run("u2").get(timeout=WAIT_S).text == "a4"
        result = thread.run("u3").get(timeout=WAIT_S)
    assert (result.text, result.error) == ("a5", None)
    assert [is_compaction(prompt) for prompt in model.prompts] == [False, False, False, True, False]
    assert dialogue(model.prompts[-1]) == ["u1", "u2", "SUMMARY all", "u3"]


def test_request_that_never_fits_fails_its_turn_only() -> None:
    model = limited(2)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        result = thread.run("u2").get(timeout=WAIT_S)
        assert isinstance(result.cause, ContextWindowExceeded)
        thread.submit(ThreadRollback(num_turns=99)).get(timeout=WAIT_S)
        assert thread.run("u3").get(timeout=WAIT_S).text == "a2"


def test_failed_compaction_leaves_the_history_as_it_was() -> None:
    def answer(prompt: Prompt) -> str:
        if is_compaction(prompt):
            raise StreamError("gone")
        return f"a{len(prompt.input)}"

    model = ScriptedModel(answer, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        assert compact(thread) == ["task_started", "error", "task_complete"]
        thread.run("u2").get(timeout=WAIT_S)
        assert all(line["type"] != "compacted" for line in lines_of(thread.rollout_path))
    assert dialogue(model.prompts[-1]) == ["u1", "a2", "u2"]


def test_interrupted_compaction_leaves_the_history_as_it_was() -> None:
    model = ScriptedModel(["a1", "never", "a2"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        gate = model.hold()
        with thread.events() as stream:
            thread.submit(Compact()).get(timeout=WAIT_S)
            assert gate.reached.wait(WAIT_S)
            thread.submit({"type": "interrupt"}).get(timeout=WAIT_S)
            assert isinstance(turn_of(stream)[-1].msg, TurnAborted)
        gate.open()
        thread.run("u2").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "a1", "u2"]


def test_compact_replaces_a_running_turn_and_keeps_what_waits() -> None:
    model = ScriptedModel(["a1", "all", "a2"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("u1")
        assert gate.reached.wait(WAIT_S)
        waiting = thread.run("u2")
        thread.submit(Compact()).get(timeout=WAIT_S)
        replaced = running.get(timeout=WAIT_S)
        gate.open()
        assert waiting.get(timeout=WAIT_S).text == "a2"
    assert replaced.aborted == "replaced"
    assert [dialogue(prompt) for prompt in model.prompts[1:]] == [["u1", "COMPACT"], ["u1", "SUMMARY all", "u2"]]


def test_nothing_to_compact_is_said_and_asks_no_model() -> None:
    model = ScriptedModel(["a1"])
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert compact(thread) == ["task_started", "warning", "task_complete"]
        assert model.requests == 0
        assert thread.run("u1").get(timeout=WAIT_S).text == "a1"


def test_call_cut_by_a_compaction_has_its_output() -> None:
    reached = threading.Event()

    @tool(name="look")
    async def never() -> None:
        reached.set()
        await asyncio.Event().wait()

    model = ScriptedModel([[CALL], "all", "a2"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(never,))).get().thread
        thread.submit(UserInput("u1")).get(timeout=WAIT_S)
        assert reached.wait(WAIT_S)
        thread.submit(Compact()).get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
    assert dialogue(model.prompts[1]) == ["u1", "function_call", "function_call_output", "COMPACT"]
    assert dialogue(model.prompts[2]) == ["u1", "SUMMARY all", "u2"]


def test_items_that_did_not_fit_are_counted() -> None:
    def answer(prompt: Prompt) -> str:
        if is_compaction(prompt) and len(prompt.input) > 3:
            raise ContextWindowExceeded
        return "all" if is_compaction(prompt) else "a"

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        with thread.events() as stream:
            thread.submit(Compact()).get(timeout=WAIT_S)
            warnings = [event.msg.message for event in turn_of(stream) if isinstance(event.msg, Warning)]
    assert "3 of its oldest items did not fit" in warnings[0]


def test_what_was_told_before_a_compaction_has_happened() -> None:
    async def answer(prompt: Prompt) -> Any:
        text = "all" if is_compaction(prompt) else "said"
        yield ItemDone(Message(role="assistant", content=(OutputText(text=text),)))
        if not is_compaction(prompt):
            threads[0].submit(Compact())  # in front of the item, which the thread has not looked at yet
            await asyncio.Event().wait()
        yield Completed(None)

    model = ScriptedModel(answer, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        threads = [manager.start_thread(Config()).get().thread]
        with threads[0].events() as stream:
            replaced = threads[0].run("u1").get(timeout=WAIT_S)
            turn_of(stream), turn_of(stream)
    assert replaced.text == "said"
    assert dialogue(model.prompts[1]) == ["u1", "said", "COMPACT"]


def test_steered_input_is_not_summed_up() -> None:
    def answer(prompt: Prompt) -> Any:
        return "all" if is_compaction(prompt) else [CALL] if len(model.prompts) == 1 else "done"

    model = ScriptedModel(answer, keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(look,), auto_compact_token_limit=1)).get().thread
        running = thread.run("u1")
        assert gate.reached.wait(WAIT_S)
        thread.steer("u2").get(timeout=WAIT_S)
        gate.open()
        result = running.get(timeout=WAIT_S)
    assert dialogue(model.prompts[1]) == ["u1", "function_call", "function_call_output", "COMPACT"]
    assert dialogue(model.prompts[2]) == ["u1", "SUMMARY all", "u2"]
    assert [item.type for item in result.items] == ["function_call", "function_call_output", "message", "message"]


@pytest.mark.parametrize("op", [Compact(), ThreadRollback(num_turns=1)])
def test_cut_call_leaves_no_output_behind_its_history(op: Any, tmp_path: Path) -> None:
    with ThreadManager(tmp_path, model=ScriptedModel([[CALL], "a1"])) as manager:
        path = Path(manager.start_thread(Config(tools=(look,))).get().thread.rollout_path or "")
        manager.get_thread(manager.list_thread_ids().get()[0]).get().run("u1").get(timeout=WAIT_S)
    lines = path.read_text().splitlines(keepends=True)
    called = next(index for index, line in enumerate(lines) if '"function_call"' in line)
    path.write_text("".join(lines[: called + 1]))
    with ThreadManager(tmp_path, model=ScriptedModel(lambda _: "all")) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get().thread
        thread.submit(op).get(timeout=WAIT_S)
        thread.run("u2").get(timeout=WAIT_S)
        assert model_history(get_rollout_history(path).get_rollout_items()) == thread._actor.record.history


def test_history_that_was_rolled_back_is_not_compacted() -> None:
    def answer(prompt: Prompt) -> str:
        if is_compaction(prompt):
            raise StreamError("gone")
        if len(prompt.input) > 5:
            raise ContextWindowExceeded
        return "a"

    model = ScriptedModel(answer, keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        for text in ("u1", "u2", "too long"):
            thread.run(text).get(timeout=WAIT_S)
        thread.submit(ThreadRollback(num_turns=2)).get(timeout=WAIT_S)
        assert thread.run("u3").get(timeout=WAIT_S).text == "a"
    assert dialogue(model.prompts[-1]) == ["u1", "a", "u3"]


def test_input_found_at_load_waits_behind_a_compaction(tmp_path: Path) -> None:
    model = ScriptedModel(["a1", "all", "a2"], keep_prompts=True)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        path = Path(thread.rollout_path or "")
    accepted = {"type": "input_accepted", "submission_id": "s", "items": [{"type": "text", "text": "found"}]}
    line = {"timestamp": "2026-01-01T00:00:00.000Z", "type": "codex_actors", "payload": accepted}
    path.write_text(f"{path.read_text()}{json.dumps(line)}\n")
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get().thread
        compact(thread)
        thread.run("u2").get(timeout=WAIT_S)
    assert [dialogue(prompt) for prompt in model.prompts[1:]] == [
        ["u1", "a1", "COMPACT"],
        ["u1", "SUMMARY all", "found", "u2"],
    ]


def test_model_that_yields_no_event_fails_its_compaction_only() -> None:
    async def answer(prompt: Prompt) -> Any:
        yield ItemDone(Message(role="assistant", content=(OutputText(text="a"),)))
        yield Completed("much" if is_compaction(prompt) else None)  # type: ignore[arg-type]

    with ThreadManager.for_testing(ScriptedModel(answer)) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("u1").get(timeout=WAIT_S)
        assert compact(thread) == ["task_started", "error", "task_complete"]
        assert thread.run("u2").get(timeout=WAIT_S).text == "a"


def test_what_was_rolled_back_is_not_counted_after_a_resume(tmp_path: Path) -> None:
    model = ScriptedModel(big, keep_prompts=True)
    config = Config(auto_compact_token_limit=500)
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.start_thread(config).get().thread
        for text in ("u1", "u2", "u3"):
            thread.run(text).get(timeout=WAIT_S)
        thread.submit(ThreadRollback(num_turns=2)).get(timeout=WAIT_S)
        path = Path(thread.rollout_path or "")
    with ThreadManager(tmp_path, model=model) as manager:
        thread = manager.resume_thread_from_rollout(config, path).get().thread
        thread.run("u4").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "a2", "u4"]
