from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest, StreamError
from codex_actors.model.provider import (
    Completed,
    ItemAdded,
    ItemDone,
    ModelEvent,
    Prompt,
    ReasoningDelta,
    TextDelta,
)
from codex_actors.model.scripted import Gate, ScriptedModel
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    Message,
    OutputText,
    Reasoning,
    ResponseItem,
    SummaryText,
    TextInput,
    Verbatim,
    user_message,
)

CALL = FunctionCall(name="look", arguments="{}", call_id="c1")
WAIT_S = 10.0


def prompt(*texts: str, input: tuple[ResponseItem, ...] = (), instructions: str | None = None) -> Prompt:
    items = tuple(user_message((TextInput(text=text),)) for text in texts)
    return Prompt(
        thread_id=ThreadId("0193b5b8-0000-7000-8000-000000000000"),
        model="scripted",
        instructions=instructions,
        input=(*items, *input),
        tools=(),
        parallel_tool_calls=False,
        output_schema=None,
    )


def said(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


async def collect(model: ScriptedModel, request: Prompt | None = None) -> list[ModelEvent]:
    return [event async for event in model.stream(request or prompt("hi"))]


def events_of(model: ScriptedModel, request: Prompt | None = None) -> list[ModelEvent]:
    return asyncio.run(collect(model, request))


def text_of(model: ScriptedModel, request: Prompt | None = None) -> str:
    return "".join(event.delta for event in events_of(model, request) if isinstance(event, TextDelta))


def upper(request: Prompt) -> str:
    last = request.input[-1]
    assert isinstance(last, Message)
    return last.text.upper()


async def upper_later(request: Prompt) -> str:
    await asyncio.sleep(0)
    return upper(request)


async def streamed(request: Prompt) -> AsyncIterator[ModelEvent]:
    yield ItemAdded(Message(role="assistant"))
    yield TextDelta(upper(request))
    yield ItemDone(said(upper(request)))
    yield Completed(None, "r1")


async def streamed_later(request: Prompt) -> AsyncIterator[ModelEvent]:
    return streamed(request)


def test_no_answer_echoes_the_last_user_text() -> None:
    assert text_of(ScriptedModel(), prompt("one", "two", input=(said("x"),))) == "echo: two"


def test_echo_of_an_empty_history_is_empty() -> None:
    assert text_of(ScriptedModel(), prompt()) == "echo: "


@pytest.mark.parametrize("answer", [upper, upper_later, streamed, streamed_later])
def test_functions_of_every_kind_answer(answer: Callable[[Prompt], Any]) -> None:
    events = events_of(ScriptedModel(answer), prompt("hey"))
    assert events[:3] == [ItemAdded(Message(role="assistant")), TextDelta("HEY"), ItemDone(said("HEY"))]
    assert isinstance(events[3], Completed)
    assert len(events) == 4


def test_list_is_used_up_in_order() -> None:
    model = ScriptedModel(["one", [CALL], upper])
    assert text_of(model) == "one"
    assert events_of(model)[0] == ItemDone(CALL)
    assert text_of(model) == "HI"
    with pytest.raises(StreamError, match=r"the script has no answer left \(used 3\)"):
        events_of(model)


def test_reasoning_streams_its_summary() -> None:
    thought = Reasoning(summary=(SummaryText(text="hm"),))
    events = events_of(ScriptedModel([[thought, CALL]]))
    assert events[:-1] == [ItemAdded(Reasoning()), ReasoningDelta("hm"), ItemDone(thought), ItemDone(CALL)]


def test_added_message_keeps_id_and_role() -> None:
    message = Message(id="m1", role="assistant", content=(OutputText(text="x"),))
    assert events_of(ScriptedModel([[message]]))[0] == ItemAdded(Message(id="m1", role="assistant"))


def test_empty_text_has_no_delta() -> None:
    assert events_of(ScriptedModel([""]))[:-1] == [ItemAdded(Message(role="assistant")), ItemDone(said(""))]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), size=st.none() | st.integers(1, 50))
def test_deltas_join_to_the_text(text: str, size: int | None) -> None:
    events = events_of(ScriptedModel([text], delta_chars=size))
    deltas = [event.delta for event in events if isinstance(event, TextDelta)]
    assert "".join(deltas) == text
    assert all(0 < len(delta) <= (size or len(text)) for delta in deltas)
    assert [event for event in events if isinstance(event, ItemDone)] == [ItemDone(said(text))]


def test_usage_is_estimated_from_characters() -> None:
    (completed,) = events_of(ScriptedModel(["123456789"]), prompt("12345678", instructions="1234"))[-1:]
    assert completed == Completed(TokenUsage(input_tokens=3, output_tokens=3, total_tokens=6))


def test_estimate_counts_calls_and_their_outputs() -> None:
    history: tuple[ResponseItem, ...] = (
        FunctionCall(name="look", arguments='{"a":1}x', call_id="c1"),
        FunctionCallOutput(call_id="c1", output="1234"),
        CustomToolCall(name="edit", input="1234", call_id="c2"),
        CustomToolCallOutput(call_id="c2", output="1234"),
    )
    (completed,) = events_of(ScriptedModel([[CALL, Verbatim(raw={"type": "new"})]]), prompt(input=history))[-1:]
    assert completed == Completed(TokenUsage(input_tokens=7, output_tokens=2, total_tokens=9))


def test_estimate_scales_the_newest_items() -> None:
    (completed,) = events_of(ScriptedModel(["1234"]), prompt(*["12345678"] * 100))[-1:]
    assert completed == Completed(TokenUsage(input_tokens=200, output_tokens=1, total_tokens=201))


def test_given_usage_is_sent_as_it_is() -> None:
    usage = TokenUsage(input_tokens=7, total_tokens=7)
    assert events_of(ScriptedModel(usage=usage))[-1] == Completed(usage)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda request: 5, "is a value of type int; expected text"),
        (lambda request: None, "is a value of type NoneType; expected text"),
        (lambda request: ["text"], "holds a value of type str, not a response item"),
        (lambda request: iter(()), "is a value of type tuple_iterator; expected text"),
    ],
)
def test_rubbish_answers_are_named(answer: Callable[[Prompt], Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        events_of(ScriptedModel(answer))


def test_rubbish_event_is_named_and_its_stream_closed() -> None:
    closed = []

    async def rubbish(request: Prompt) -> AsyncIterator[Any]:
        try:
            yield "text"
        finally:
            closed.append(True)

    with pytest.raises(TypeError, match="yielded a value of type str, not a model event"):
        events_of(ScriptedModel(rubbish))
    assert closed == [True]


def test_closing_the_stream_closes_the_functions_stream() -> None:
    closed = []

    async def endless(request: Prompt) -> AsyncIterator[ModelEvent]:
        try:
            while True:
                yield TextDelta("x")
        finally:
            closed.append(True)

    async def main() -> None:
        stream = ScriptedModel(endless).stream(prompt("hi"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(main())
    assert closed == [True]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("one", "a value of type str is no script"),
        ({"a": 1}, "a value of type dict is no script"),
        (["one", 2], "answer 1 is a value of type int"),
        ([CALL], "answer 0 is a value of type FunctionCall"),
        ([["one"]], "answer 0 holds a value of type str"),
    ],
)
def test_bad_scripts_are_refused_at_construction(answer: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ScriptedModel(answer)


@pytest.mark.parametrize("delta_chars", [0, -1, "8", 1.5])
def test_bad_delta_size_is_refused(delta_chars: Any) -> None:
    with pytest.raises(InvalidRequest, match="delta_chars"):
        ScriptedModel(delta_chars=delta_chars)


def test_script_file_answers_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text('"one"\n\n[{"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c1"}]\n')
    model = ScriptedModel(path)
    path.unlink()
    assert text_of(model) == "one"
    assert events_of(model)[0] == ItemDone(CALL)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("tru", "line 2 is not JSON"),
        ('{"a": 1}', "line 2: expected a string or a list of response items, not a value of type dict"),
        ('["x"]', "line 2: item 0 is no object with a type"),
        ('[{"type": "message", "role": "user"}, {"a": 1}]', "line 2: item 1 is no object with a type"),
        ('[{"type": "message"}]', "line 2: item 0: message.role: Field required"),
        ('"\\ud800"', "line 2 is not JSON"),
    ],
)
def test_bad_script_lines_are_named(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text(f'"one"\n{line}\n')
    with pytest.raises(InvalidRequest, match=text):
        ScriptedModel(path)


def test_missing_script_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        ScriptedModel(tmp_path / "none.jsonl")


def test_requests_are_counted_and_prompts_kept_on_wish() -> None:
    plain, keeping = ScriptedModel(), ScriptedModel(keep_prompts=True)
    events_of(plain), events_of(keeping, prompt("a")), events_of(keeping, prompt("b"))
    assert (plain.requests, plain.prompts) == (1, [])
    assert (keeping.requests, keeping.prompts) == (2, [prompt("a"), prompt("b")])


@pytest.mark.parametrize("answer", [None, upper, ["one", [CALL], upper]])
def test_pickled_copy_has_the_answers_left(answer: Any) -> None:
    model = ScriptedModel(answer)
    model.hold()
    copy = pickle.loads(pickle.dumps(model))
    assert text_of(copy) in ("echo: hi", "HI", "one")
    assert copy.requests == 1


def test_open_gives_an_async_context() -> None:
    async def main() -> None:
        async with ScriptedModel().open():
            pass

    asyncio.run(main())


def test_start_gate_stands_before_the_answer_function() -> None:
    called = []

    def answer(request: Prompt) -> str:
        called.append(request)
        return "x"

    async def main() -> None:
        model = ScriptedModel(answer)
        gate = model.hold()
        turn = asyncio.create_task(collect(model))
        await gate.wait_reached(WAIT_S)
        assert not called
        gate.open()
        assert len(await turn) == 4

    asyncio.run(main())


@pytest.mark.parametrize("answer", [["X"], streamed])
def test_deltas_gate_stands_before_the_whole_item(answer: Any) -> None:
    async def main() -> None:
        model = ScriptedModel(answer)
        gate = model.hold(after="deltas")
        stream = model.stream(prompt("x"))
        assert [await anext(stream), await anext(stream)] == [ItemAdded(Message(role="assistant")), TextDelta("X")]
        rest = asyncio.ensure_future(anext(stream))
        await gate.wait_reached(WAIT_S)
        assert not rest.done()
        gate.open()
        assert await rest == ItemDone(said("X"))

    asyncio.run(main())


def test_gate_opens_from_another_os_thread() -> None:
    async def main() -> None:
        gate = Gate()
        model = ScriptedModel(gate=gate)

        def open_when_reached() -> None:
            assert gate.reached.wait(WAIT_S)
            gate.open()

        opener = threading.Thread(target=open_when_reached)
        opener.start()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(collect(model) for _ in range(50)))
        opener.join(WAIT_S)

    asyncio.run(main())


def test_one_gate_holds_two_loops() -> None:
    model = ScriptedModel()
    gate = model.hold()
    answers: list[str] = []
    hosts = [threading.Thread(target=lambda: answers.append(text_of(model))) for _ in range(2)]
    for host in hosts:
        host.start()
    asyncio.run(gate.wait_reached(WAIT_S))
    gate.open()
    for host in hosts:
        host.join(WAIT_S)
    assert answers == ["echo: hi"] * 2


def test_open_gate_lets_later_streams_pass() -> None:
    model = ScriptedModel()
    gate = model.hold()
    gate.open()
    gate.open()
    assert text_of(model) == "echo: hi"
    assert gate.is_open
    assert not gate.reached.is_set()
    second = model.hold()
    second.open()
    assert text_of(model) == "echo: hi"


def test_cancelled_stream_leaves_the_gate_working() -> None:
    async def main() -> None:
        model = ScriptedModel()
        gate = model.hold()
        first = asyncio.create_task(collect(model))
        await gate.wait_reached(WAIT_S)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(collect(model))
        gate.open()
        assert first.cancelled()
        assert len(await second) == 4

    asyncio.run(main())


def test_gate_survives_a_loop_that_closed() -> None:
    gate = Gate()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of the task that is destroyed while it waits
    task = loop.create_task(gate.pass_through())
    loop.run_until_complete(gate.wait_reached(WAIT_S))
    loop.close()
    gate.open()
    assert not task.done()
    assert gate.is_open


def test_waiting_for_a_gate_has_an_end() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(ScriptedModel().hold().wait_reached(0.0))


def test_gate_refuses_an_unknown_place() -> None:
    with pytest.raises(InvalidRequest, match="not start or deltas"):
        ScriptedModel().hold(after="end")  # type: ignore[arg-type]
