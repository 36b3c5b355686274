from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ManagerConfig, ScriptedModel, ThreadManager, tool
from codex_actors.config import ToolLike
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message
from codex_actors.testing import no_leaks
from codex_actors.tools import files
from codex_actors.tools.tool import ToolContext, ToolError

WAIT_S = 10.0


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> FunctionCall:
    return FunctionCall(name=name, arguments=arguments, call_id=call_id)


def output_of(made: ToolLike, arguments: str = "{}", config: ManagerConfig | None = None) -> str:
    """What the model reads of one call of the tool; the turn goes on, and so does the thread."""
    model = ScriptedModel([[call(made.name, arguments)], "done", "alive"], keep_prompts=True)
    with ThreadManager(model=model, config=config) as manager:
        thread = manager.start_thread(Config(tools=(made,))).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
        assert (result.text, result.error) == ("done", None)
        assert thread.run("still there?").get(timeout=WAIT_S).text == "alive"
    output = model.prompts[1].input[-1]
    assert isinstance(output, FunctionCallOutput)
    assert isinstance(output.output, str)
    return output.output


@tool
def exits() -> str:
    sys.exit(3)


@tool
async def exits_async() -> str:
    raise SystemExit(3)


@tool
async def interrupts_async() -> str:
    raise KeyboardInterrupt


@tool
def generator_exits() -> str:
    raise GeneratorExit


@tool
def raises() -> str:
    raise ValueError("no such city")


@tool
def refuses() -> str:
    raise ToolError("that city is closed; try Oslo")


@tool
async def refuses_async() -> str:
    raise ToolError("that city is closed; try Oslo")


@tool
async def cancels_itself() -> str:
    raise asyncio.CancelledError("mine")


@tool
async def cancels_its_own_task() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return "never"


@tool
def returns_a_lock() -> Any:
    return threading.Lock()


@tool
async def returns_itself_in_a_list() -> Any:
    ring: list[Any] = []
    ring.append(ring)
    return ring


@tool
def add(a: int, b: int = 1) -> int:
    return a + b


@pytest.mark.parametrize(
    ("made", "output"),
    [
        (exits, "tool exits failed: SystemExit: 3"),
        (exits_async, "tool exits_async failed: SystemExit: 3"),
        (interrupts_async, "tool interrupts_async failed: KeyboardInterrupt"),
        (generator_exits, "tool generator_exits failed: GeneratorExit"),
        (raises, "tool raises failed: ValueError: no such city"),
        (cancels_itself, "tool cancels_itself failed: CancelledError: mine"),
        (cancels_its_own_task, "tool cancels_its_own_task failed: CancelledError"),
        (returns_a_lock, "the tool did its work, but returned a value of type lock that is neither text nor JSON"),
        (returns_itself_in_a_list, "the tool did its work, but returned a value of type list"),
        (refuses, "that city is closed; try Oslo"),
        (refuses_async, "that city is closed; try Oslo"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_failure_of_a_tool_is_its_output(made: ToolLike, output: str) -> None:
    with no_leaks():
        assert output_of(made).startswith(output)


def test_ctrl_c_in_a_tool_reaches_the_hosts_loop_once() -> None:
    async def main() -> str | None:
        model = ScriptedModel([[call("interrupts_async")], "done"])
        async with ThreadManager(model=model) as manager:
            thread = (await manager.start_thread(Config(tools=(interrupts_async,)))).thread
            return (await thread.run("hi")).text

    with no_leaks():
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert loop.run_until_complete(task) == "done"
        loop.close()


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ('{"a": 1}', "2"),
        ('{"a": 1, "b": 4}', "5"),
        ('{"a": "x"}', "invalid arguments for add: a: "),
        ('{"a": 1, "c": 2}', "invalid arguments for add: c: "),
        ("{", "invalid arguments for add: "),
        ("", "invalid arguments for add: a: "),
    ],
)
def test_model_reads_why_its_arguments_failed(arguments: str, output: str) -> None:
    assert output_of(add, arguments).startswith(output)


def test_async_tool_past_its_deadline_is_cancelled() -> None:
    cancelled = threading.Event()

    @tool
    async def sleep() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with no_leaks():
        output = output_of(sleep, config=ManagerConfig(tool_timeout_s=0.05))
    assert output == "tool sleep did not finish within 0.05 s"
    assert cancelled.wait(WAIT_S)


def test_tool_that_swallows_cancellation_holds_up_nothing() -> None:
    begun, swallowed = threading.Event(), threading.Event()
    release: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @tool
    async def stubborn() -> str:
        event = asyncio.Event()
        release.append((asyncio.get_running_loop(), event))
        begun.set()
        while not event.is_set():
            try:
                await event.wait()
            except asyncio.CancelledError:
                swallowed.set()
        return "at last"

    model = ScriptedModel([[call("stubborn")], "fine"])
    with no_leaks(), ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(stubborn,))).get().thread
        running = thread.run("hi")
        assert begun.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status.word == "interrupted"
        assert swallowed.wait(WAIT_S)
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
        loop, event = release[0]
        loop.call_soon_threadsafe(event.set)


@pytest.mark.parametrize("is_async", [False, True])
def test_tool_that_never_ends_is_counted_at_close(is_async: bool) -> None:
    begun, release = threading.Event(), threading.Event()

    @tool(name="stuck")
    def stuck_sync() -> None:
        begun.set()
        release.wait(60)

    @tool(name="stuck")
    async def stuck_async() -> None:
        begun.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue

    made = stuck_async if is_async else stuck_sync
    model = ScriptedModel([[call("stuck")]])
    config = ManagerConfig(close_timeout_s=0.3)
    with ThreadManager(model=model, config=config) as manager:
        thread = manager.start_thread(Config(tools=(made,))).get().thread
        running = thread.run("hi")
        assert begun.wait(WAIT_S)
        report = manager.close().get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status.word == "interrupted"
    release.set()
    assert report.abandoned_tools == 1
    assert report.completed == (thread.thread_id,)
    assert report.timed_out == ()
    assert report.is_drained


def test_sync_tool_past_its_deadline_is_abandoned() -> None:
    release = threading.Event()

    @tool
    def stuck() -> None:
        release.wait(60)

    model = ScriptedModel([[call("stuck")], "done"], keep_prompts=True)
    config = ManagerConfig(tool_timeout_s=0.05, close_timeout_s=1.0)
    with ThreadManager(model=model, config=config) as manager:
        thread = manager.start_thread(Config(tools=(stuck,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
        report = manager.close().get(timeout=WAIT_S)
    release.set()
    assert report.abandoned_tools == 1
    assert model.prompts[1].input[-1] == FunctionCallOutput(
        call_id="c1", output="tool stuck did not finish within 0.05 s"
    )


def test_sync_tool_may_wait_for_another_thread() -> None:
    @tool
    def ask(context: ToolContext) -> str:
        child = context.control.spawn_agent(Config(), "child").get(timeout=WAIT_S)
        watch = context.control.subscribe_status(child).get(timeout=WAIT_S)
        return str(watch.until(lambda status: status.word == "completed").get(timeout=WAIT_S).message)

    model = ScriptedModel([[call("ask")], "from the child", "done"], keep_prompts=True)
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(ask,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
    output, notice = model.prompts[2].input[-2:]
    assert output == FunctionCallOutput(call_id="c1", output="from the child")
    assert isinstance(notice, Message)
    assert "subagent_notification" in notice.text


def test_tools_that_wait_give_their_places_away() -> None:
    def answer(prompt: Any) -> Any:
        if isinstance(prompt.input[-1], FunctionCallOutput) or not prompt.tools:
            return "done"
        return [call("ask")]

    @tool
    def ask(context: ToolContext) -> str:
        together.wait(WAIT_S)
        return str(leaf.run("hi").get(timeout=WAIT_S).text)

    together = threading.Barrier(30)
    with ThreadManager(model=ScriptedModel(answer)) as manager:
        leaf = manager.start_thread(Config()).get().thread
        threads = [manager.start_thread(Config(tools=(ask,))).get().thread for _ in range(30)]
        running = [thread.run("hi") for thread in threads]
        assert {reply.get(timeout=WAIT_S).text for reply in running} == {"done"}


def test_tool_is_told_whose_call_it_is() -> None:
    told: list[ToolContext] = []

    @tool
    async def who(context: ToolContext) -> str:
        told.append(context)
        return "ok"

    model = ScriptedModel([[call("who", call_id="a"), call("who", call_id="b")], "done"])
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(who,))).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
    assert [context.call_id for context in told] == ["a", "b"]
    assert {(context.thread_id, context.turn_id) for context in told} == {(thread.thread_id, result.turn_id)}


def test_two_calls_with_one_id_are_closed() -> None:
    calls = [call("add", '{"a": 1}'), call("add", '{"a": 2}')]
    model = ScriptedModel([calls, "done"], keep_prompts=True)
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(add,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
    kinds = [item.type for item in model.prompts[1].input]
    assert kinds.count("function_call") == kinds.count("function_call_output") == 2


def test_sync_tools_of_many_threads_run_side_by_side() -> None:
    together = threading.Barrier(8)

    @tool
    def meet() -> str:
        together.wait(WAIT_S)
        return "met"

    def answer(prompt: Any) -> Any:
        return "done" if isinstance(prompt.input[-1], FunctionCallOutput) else [call("meet")]

    with ThreadManager(model=ScriptedModel(answer)) as manager:
        running = [manager.start_thread(Config(tools=(meet,))).get().thread.run("hi") for _ in range(8)]
        assert [reply.get(timeout=WAIT_S).text for reply in running] == ["done"] * 8


def test_async_tool_runs_on_loop_and_sync_elsewhere() -> None:
    where: dict[str, str] = {}

    @tool
    def elsewhere() -> str:
        where["sync"] = threading.current_thread().name
        return ""

    @tool
    async def here() -> str:
        where["async"] = threading.current_thread().name
        return ""

    model = ScriptedModel([[call("elsewhere"), call("here", call_id="c2")], "done"])
    with ThreadManager(model=model) as manager:
        manager.start_thread(Config(tools=(elsewhere, here))).get().thread.run("hi").get(timeout=WAIT_S)
    assert where == {"sync": "codex_actors-tool", "async": "codex_actors-loop"}


def test_prompt_says_that_calls_may_be_several() -> None:
    model = ScriptedModel(["ok"], keep_prompts=True)
    with ThreadManager(model=model) as manager:
        manager.start_thread(Config()).get().thread.run("hi").get(timeout=WAIT_S)
    assert model.prompts[0].parallel_tool_calls


def test_outputs_are_in_order_however_calls_end() -> None:
    gates = [threading.Event() for _ in range(4)]

    @tool(read_only=True)
    def backwards(number: int) -> int:
        assert gates[number].wait(WAIT_S)
        if number:
            gates[number - 1].set()
        return number

    gates[3].set()
    calls = [call("backwards", f'{{"number": {number}}}', f"c{number}") for number in range(4)]
    model = ScriptedModel([calls, "done"], keep_prompts=True)
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config(tools=(backwards,))).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "done"
    outputs = [item for item in model.prompts[1].input if isinstance(item, FunctionCallOutput)]
    assert outputs == [FunctionCallOutput(call_id=f"c{number}", output=str(number)) for number in range(4)]


def test_interrupt_keeps_known_outputs_and_closes_the_rest() -> None:
    all_at_work = threading.Barrier(4)

    @tool(read_only=True)
    async def fast() -> str:
        return "known"

    @tool(read_only=True)
    def slow() -> str:
        all_at_work.wait(WAIT_S)
        release.wait(60)
        return "late"

    release = threading.Event()
    calls = [call(name, call_id=f"c{number}") for number, name in enumerate(["fast", "slow", "fast", "slow", "slow"])]
    with no_leaks(), ThreadManager(model=ScriptedModel([calls, "fine"])) as manager:
        thread = manager.start_thread(Config(tools=(fast, slow))).get().thread
        events = thread.events()
        running = thread.run("hi")
        all_at_work.wait(WAIT_S)
        assert "item_completed" in (event.msg.type for event in events)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        result = running.get(timeout=WAIT_S)
        outputs = [item.output for item in result.items if isinstance(item, FunctionCallOutput)]
        assert outputs == ["known", *["aborted by user"] * 4]
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
        release.set()


def test_calls_left_in_one_response_are_all_counted() -> None:
    all_at_work, release = threading.Barrier(4), threading.Event()

    @tool(read_only=True)
    def stuck() -> None:
        all_at_work.wait(WAIT_S)
        release.wait(60)

    calls = [call("stuck", call_id=f"c{number}") for number in range(3)]
    with ThreadManager(model=ScriptedModel([calls]), config=ManagerConfig(close_timeout_s=0.3)) as manager:
        thread = manager.start_thread(Config(tools=(stuck,))).get().thread
        running = thread.run("hi")
        all_at_work.wait(WAIT_S)
        report = manager.close().get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status.word == "interrupted"
    release.set()
    assert report.abandoned_tools == 3


def test_large_output_is_recorded_without_its_middle() -> None:
    @tool
    def chatters() -> str:
        return "line\n" * 10_000

    notice = "…[49,900 bytes, 9,980 lines left out]…\n"
    assert output_of(chatters, config=ManagerConfig(tool_output_bytes=100)) == "line\n" * 10 + notice + "line\n" * 10


def test_catastrophic_pattern_leaves_the_loop_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MATCH_S", 1.0)
    (tmp_path / "a.txt").write_text("a" * 60 + "b")
    searching = [call("search_files", '{"pattern": "(a+)+$"}')]
    with no_leaks(), ThreadManager(model=ScriptedModel([searching, "hello", "alive"])) as manager:
        thread = manager.start_thread(Config(tools=files.file_tools(tmp_path))).get().thread
        events = thread.events()
        running = thread.run("search")
        assert "item_started" in (event.msg.type for event in events)
        other = manager.start_thread(Config()).get().thread
        assert other.run("hi").get(timeout=WAIT_S).text == "hello"
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status.word == "interrupted"
