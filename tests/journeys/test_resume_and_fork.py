from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from codex_actors import (
    Config,
    Forked,
    Interrupt,
    New,
    NewThread,
    Resumed,
    ScriptedModel,
    SessionSource,
    Shutdown,
    ThreadId,
    ThreadManager,
    tool,
)
from codex_actors.actors.handle import CodexThread
from codex_actors.errors import InvalidRequest, ThreadNotFound
from codex_actors.protocol.events import Warning as WarningEvent
from codex_actors.protocol.history import ResponseItemLine
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, TextInput, user_message
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.runtime.workers import WORKING_BOUND

WAIT_S = 10.0


@tool
def look() -> str:
    return "seen"


def lines_of(path: Path | None) -> list[dict[str, Any]]:
    """The lines without what belongs to their file."""
    assert path is not None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("timestamp", "crc")} for line in lines]


def dialogue(prompt: Any) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text for text in texts if not text.startswith("<environment_context>")]


def shut_down(thread: CodexThread) -> None:
    thread.submit(Shutdown())
    thread.watch_status().ended().get(timeout=WAIT_S)


def start(manager: ThreadManager, *inputs: str, config: Config | None = None) -> NewThread:
    new = manager.start_thread(config or Config()).get(timeout=WAIT_S)
    for text in inputs:
        new.thread.run(text).get(timeout=WAIT_S)
    return new


# --- resume ------------------------------------------------------------------------------------------------------------


def test_resume_of_live_thread_gives_same_handle() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager, "u1")
        assert new.thread.rollout_path is not None
        again = manager.resume_thread_from_rollout(Config(), new.thread.rollout_path).get(timeout=WAIT_S)
        history = Resumed(new.thread_id, (), new.thread.rollout_path)
        once_more = manager.resume_thread_with_history(Config(), history).get(timeout=WAIT_S)
        assert manager.list_thread_ids().get() == [new.thread_id]
    assert again == once_more == new


def test_resume_of_live_thread_in_other_file_is_refused(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager, "u1")
        other = Resumed(new.thread_id, (), tmp_path / "other.jsonl")
        with pytest.raises(InvalidRequest, match="already running with a different rollout path"):
            manager.resume_thread_with_history(Config(), other).get(timeout=WAIT_S)
        assert new.thread.run("u2").get(timeout=WAIT_S).text == "echo: u2"


def test_resume_of_stopped_thread_gives_new_handle() -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        old = start(manager, "u1")
        path = old.thread.rollout_path
        assert path is not None
        shut_down(old.thread)
        new = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        assert new.thread_id == old.thread_id
        assert new.thread is not old.thread
        assert manager.get_thread(old.thread_id).get(timeout=WAIT_S) is new.thread
        before = lines_of(path)
        new.thread.run("u2").get(timeout=WAIT_S)
        assert lines_of(path)[: len(before)] == before
    assert dialogue(model.prompts[-1]) == ["u1", "echo: u1", "u2"]
    assert old.thread.agent_status() == AgentStatus.SHUTDOWN


def test_resume_does_not_repeat_unchanged_context(tmp_path: Path) -> None:
    config = Config(cwd=tmp_path, user_instructions="U")
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        path = start(manager, "u1", config=config).thread.rollout_path
    assert path is not None
    changed = Config(cwd=tmp_path, user_instructions="V")
    for resumed, prefixes in ((config, 1), (changed, 2)):
        with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
            thread = manager.resume_thread_from_rollout(resumed, path).get(timeout=WAIT_S).thread
            thread.run("more").get(timeout=WAIT_S)
        texts = [item.text for item in model.prompts[-1].input if isinstance(item, Message)]
        assert sum(text.startswith("# AGENTS.md instructions for ") for text in texts) == prefixes
        assert sum(text.startswith("<environment_context>") for text in texts) == 1


def test_resume_tells_the_recorded_events(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        old = start(manager, "u1")
        usage = old.thread.total_token_usage()
    assert old.thread.rollout_path is not None
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        new = manager.resume_thread_from_rollout(Config(), old.thread.rollout_path).get(timeout=WAIT_S)
        assert new.thread.total_token_usage() == usage
        assert new.thread.agent_status() == AgentStatus.completed("echo: u1")
    configured = new.session_configured
    assert [event.type for event in configured.initial_messages or ()] == [
        "user_message",
        "agent_message",
        "token_count",
    ]
    assert configured.rollout_path == str(old.thread.rollout_path)
    assert old.session_configured.initial_messages is None


def test_resume_with_other_model_warns(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        path = start(manager, "u1", config=Config(model="small")).thread.rollout_path
    assert path is not None
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        thread = manager.resume_thread_from_rollout(Config(model="large"), path).get(timeout=WAIT_S).thread
        warning = thread.next_event().get(timeout=WAIT_S)
    assert warning.id == ""
    assert isinstance(warning.msg, WarningEvent)
    assert "`small`" in warning.msg.message
    assert "`large`" in warning.msg.message


def test_resume_closes_a_call_without_output(tmp_path: Path) -> None:
    call = FunctionCall(name="look", arguments="{}", call_id="c1")
    with ThreadManager.for_testing(ScriptedModel([[call], "done"]), codex_home=tmp_path) as manager:
        path = start(manager, "u1", config=Config(tools=(look,))).thread.rollout_path
    assert path is not None
    lines = path.read_text().splitlines(keepends=True)
    cut = next(index for index, line in enumerate(lines) if '"function_call"' in line)
    path.write_text("".join(lines[: cut + 1]))
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        thread.run("u2").get(timeout=WAIT_S)
        recorded = lines_of(path)
    closed = [item for item in model.prompts[0].input if isinstance(item, FunctionCallOutput)]
    assert [item.call_id for item in closed] == ["c1"]
    assert sum(line["payload"].get("type") == "function_call_output" for line in recorded) == 1


def test_history_of_the_caller_needs_no_file() -> None:
    model = ScriptedModel(keep_prompts=True)
    said = ResponseItemLine(payload=user_message((TextInput(text="from elsewhere"),)))
    with ThreadManager(model=model) as manager:
        for history in (
            New(),
            Forked((said,)),
            Resumed(ThreadId("0193b5b8-0000-7000-8000-000000000001"), (said,), None),
        ):
            new = manager.resume_thread_with_history(Config(), history).get(timeout=WAIT_S)
            new.thread.run("u").get(timeout=WAIT_S)
    assert [dialogue(prompt)[:-1] for prompt in model.prompts] == [[], ["from elsewhere"], ["from elsewhere"]]
    assert new.thread_id == "0193b5b8-0000-7000-8000-000000000001"


def test_removed_thread_is_listed_again_by_resume() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = start(manager, "u1")
        path = new.thread.rollout_path
        assert path is not None
        assert manager.remove_thread(new.thread_id).get(timeout=WAIT_S) is new.thread
        with pytest.raises(ThreadNotFound, match=new.thread_id):
            manager.get_thread(new.thread_id).get(timeout=WAIT_S)
        again = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        assert again.thread is new.thread
        assert manager.get_thread(new.thread_id).get(timeout=WAIT_S) is new.thread


def test_paginated_file_is_forked_and_resumed(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        path = start(manager, "u1").thread.rollout_path
    assert path is not None
    first, *rest = path.read_text().splitlines()
    meta = json.loads(first)
    meta["payload"]["history_mode"] = "paginated"
    path.write_text("\n".join([json.dumps(meta), *rest, ""]))
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        fork = manager.fork_thread(None, Config(), path).get(timeout=WAIT_S).thread
        fork.run("u2").get(timeout=WAIT_S)
        resumed = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        resumed.run("u3").get(timeout=WAIT_S)
        forked = lines_of(fork.rollout_path)
    assert [dialogue(prompt) for prompt in model.prompts] == [["u1", "echo: u1", "u2"], ["u1", "echo: u1", "u3"]]
    appended = lines_of(path)[1 + len(rest) :]
    assert [line["ordinal"] for line in appended] == list(range(len(appended)))
    assert not any("ordinal" in line or "history_mode" in line["payload"] for line in forked)


# --- fork --------------------------------------------------------------------------------------------------------------


def test_loads_do_not_wait_for_busy_tools(tmp_path: Path) -> None:
    began, gate = threading.Semaphore(0), threading.Event()

    @tool(read_only=True)
    def work() -> str:
        began.release()
        assert gate.wait(WAIT_S)
        return "worked"

    with ThreadManager(tmp_path) as manager:
        path = start(manager, "before").thread.rollout_path
    assert path is not None
    calls = [FunctionCall(name="work", arguments="{}", call_id=str(number)) for number in range(WORKING_BOUND)]
    with ThreadManager(tmp_path, model=ScriptedModel([calls, "done"])) as manager:
        running = start(manager, config=Config(tools=(work,))).thread.run("work")
        for _ in calls:
            assert began.acquire(timeout=WAIT_S)
        new = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        fork = manager.fork_thread(None, None, new.thread_id).get(timeout=WAIT_S)
        assert not running.done()
        gate.set()
        assert running.get(timeout=WAIT_S).text == "done"
    assert new.thread.rollout_path == path != fork.thread.rollout_path


def test_fork_thread_twice_drops_to_first_message() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        base = start(manager, "first", "second", "third").thread
        lines = lines_of(base.rollout_path)
        assert base.rollout_path is not None
        cut = [
            index
            for index, line in enumerate(lines)
            if line["payload"].get("role") == "user" and "<environment_context>" not in str(line)
        ]
        one = manager.fork_thread(1, Config(), base.rollout_path).get(timeout=WAIT_S)
        assert lines_of(one.thread.rollout_path)[1:] == lines[: cut[1]]
        assert one.thread.rollout_path is not None
        two = manager.fork_thread(0, Config(), one.thread.rollout_path).get(timeout=WAIT_S)
        kept = lines_of(two.thread.rollout_path)
    # Each file begins with its own meta; the source's lines follow, its meta among them.
    assert kept[2:] == lines[: cut[0]]
    assert len({base.thread_id, one.thread_id, two.thread_id}) == 3
    assert one.session_configured.forked_from_id == base.thread_id
    assert two.session_configured.forked_from_id == one.thread_id


def test_file_of_a_fork_is_whole_before_the_reply() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        base = start(manager, "u1", "u2").thread
        fork = manager.fork_thread(None, None, base.thread_id).get(timeout=WAIT_S)
        assert fork.thread.rollout_path is not None
        history = get_rollout_history(fork.thread.rollout_path)
        assert lines_of(fork.thread.rollout_path)[1:] == lines_of(base.rollout_path)
    assert isinstance(history, Resumed)
    assert history.conversation_id == fork.thread_id


def test_fork_beyond_last_message_is_new() -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        base = start(manager, "u1").thread
        fork = manager.fork_thread(7, None, base.thread_id).get(timeout=WAIT_S)
        assert fork.session_configured.initial_messages is None
        assert fork.thread.rollout_path is not None
        assert not fork.thread.rollout_path.exists()
        fork.thread.run("mine").get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["mine"]


def test_fork_of_a_thread_that_never_ran_is_new() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        base = start(manager)
        fork = manager.fork_thread(None, None, base.thread_id).get(timeout=WAIT_S)
        assert fork.thread_id != base.thread_id
        assert fork.thread.run("mine").get(timeout=WAIT_S).text == "echo: mine"


def test_fork_by_id_works_without_home() -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager(model=model) as manager:
        base = start(manager, "u1", "u2")
        fork = manager.fork_thread(1, None, base.thread_id).get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
        unknown = ThreadId("0193b5b8-0000-7000-8000-000000000001")
        with pytest.raises(ThreadNotFound, match=unknown):
            manager.fork_thread(None, None, unknown).get(timeout=WAIT_S)
    assert dialogue(model.prompts[-1]) == ["u1", "echo: u1", "mine"]


def test_fork_by_id_finds_the_kept_file(tmp_path: Path) -> None:
    config = Config(base_instructions="B", user_instructions="U", model="small", cwd=tmp_path)
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        thread_id = start(manager, "u1", config=config).thread_id
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        fork = manager.fork_thread(None, None, thread_id).get(timeout=WAIT_S).thread
        fork.run("mine").get(timeout=WAIT_S)
    assert (model.prompts[0].instructions, model.prompts[0].model) == ("B", "small")
    assert dialogue(model.prompts[0])[-3:] == ["u1", "echo: u1", "mine"]


def test_config_of_the_caller_wins_over_recorded_one(tmp_path: Path) -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        base = start(manager, "u1", config=Config(cwd=tmp_path, base_instructions="B", tools=(look,)))
        inherited = manager.fork_thread(None, None, base.thread_id).get(timeout=WAIT_S)
        own = manager.fork_thread(None, Config(cwd=Path("/")), base.thread_id).get(timeout=WAIT_S)
        inherited.thread.run("u").get(timeout=WAIT_S)
        own.thread.run("u").get(timeout=WAIT_S)
    assert (inherited.session_configured.cwd, own.session_configured.cwd) == (str(tmp_path), "/")
    assert [len(prompt.tools) for prompt in model.prompts] == [1, 1, 0]
    assert [prompt.instructions for prompt in model.prompts] == ["B", "B", None]


def test_fork_in_mid_turn_closes_the_open_call() -> None:
    call = FunctionCall(name="ask", arguments="{}", call_id="c1")
    forks: list[NewThread] = []
    model = ScriptedModel([[call], "forked", "done"], keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:

        @tool
        async def ask() -> str:
            forks.append(await manager.fork_thread(None, Config(), base.thread_id))
            result = await forks[0].thread.run("mine")
            return str(result.text)

        base = start(manager, config=Config(tools=(ask,))).thread
        assert base.run("u1").get(timeout=WAIT_S).text == "done"
        lines = lines_of(forks[0].thread.rollout_path)
    mine = model.prompts[1]
    assert [item.type for item in mine.input[-4:]] == ["message", "function_call", "function_call_output", "message"]
    assert sum(line["payload"].get("type") == "function_call_output" for line in lines) == 1
    assert FunctionCallOutput(call_id="c1", output="forked") in model.prompts[2].input


def test_interrupted_history_resumes_with_its_aborted_call(tmp_path: Path) -> None:
    call = FunctionCall(name="look", arguments="{}", call_id="c1")
    model = ScriptedModel([[call], "never"])
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        thread = start(manager, config=Config(tools=(look,))).thread
        gate = model.hold(after="deltas")
        running = thread.run("u1")
        assert gate.reached.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        running.get(timeout=WAIT_S)
        path = thread.rollout_path
    assert path is not None
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        thread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).thread
        thread.run("u2").get(timeout=WAIT_S)
    calls = [item for item in model.prompts[0].input if isinstance(item, FunctionCall)]
    outputs = [item for item in model.prompts[0].input if isinstance(item, FunctionCallOutput)]
    assert len(calls) == len(outputs)


def test_meta_line_says_where_a_thread_comes_from(tmp_path: Path) -> None:
    with ThreadManager(tmp_path, model=ScriptedModel(), session_source=SessionSource.CLI) as manager:
        base = start(manager, "u1")
        fork = manager.fork_thread(None, None, base.thread_id).get(timeout=WAIT_S)
        metas = [lines_of(new.thread.rollout_path)[0]["payload"] for new in (base, fork)]
    assert [meta["source"] for meta in metas] == ["cli", "cli"]
    assert metas[1]["forked_from_id"] == base.thread_id
    assert "forked_from_id" not in metas[0]


def test_fork_takes_a_thread_id_as_text(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        old = start(manager, "u1")
        fork = manager.fork_thread(None, None, str(old.thread_id)).get(timeout=WAIT_S)
        assert fork.session_configured.forked_from_id == old.thread_id


def test_loads_of_one_rollout_at_once_are_one(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        path = start(manager, "u1").thread.rollout_path
    assert path is not None
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path) as manager:
        replies = [manager.resume_thread_from_rollout(Config(), path) for _ in range(16)]
        threads = {id(reply.get(timeout=WAIT_S).thread) for reply in replies}
        assert len(threads) == 1
        assert manager._opened is not None
        assert manager._opened.shared.loading == {}


def test_meta_line_names_no_model_provider(tmp_path: Path) -> None:
    # Codex 0.169 refuses to resume a rollout whose provider it has not configured; the field is optional.
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        new = start(manager, "u1")
        assert new.session_configured.model_provider_id == "scripted"
    assert "model_provider" not in lines_of(new.thread.rollout_path)[0]["payload"]


def test_events_of_a_rollout_are_shown_as_json(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        path = start(manager, "u1").thread.rollout_path
        assert path is not None
    with ThreadManager(tmp_path) as manager:
        configured = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S).session_configured
        shown = json.loads(configured.model_dump_json())["initial_messages"]
    assert [message["type"] for message in shown][:2] == ["user_message", "agent_message"]
