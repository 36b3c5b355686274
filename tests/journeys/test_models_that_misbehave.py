from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import pytest

from codex_actors import Config, Interrupt, ManagerConfig, Prompt, ScriptedModel, ThreadManager
from codex_actors.errors import InternalAgentDied, StreamError
from codex_actors.model.provider import Completed, ItemDone, ModelEvent, TextDelta
from codex_actors.protocol.items import Message, OutputText
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.mailbox import Letter
from codex_actors.testing import no_leaks

WAIT_S = 10.0


def said(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


class Model:
    """A provider whose streams are the given async generator functions, in order; the last one stays."""

    def __init__(self, *streams: Any) -> None:
        self._streams = list(streams)
        self.begun = 0
        self.closed = 0
        self.opened = 0
        self.left = 0

    def open(self) -> AbstractAsyncContextManager[Any]:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self.opened += 1
        try:
            yield
        finally:
            self.left += 1

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        self.begun += 1
        made = self._streams.pop(0) if len(self._streams) > 1 else self._streams[0]
        try:
            async for event in made():
                yield event
        finally:
            self.closed += 1


async def fine() -> AsyncIterator[Any]:
    yield ItemDone(said("fine"))
    yield Completed(None)


async def rubbish() -> AsyncIterator[Any]:
    yield TextDelta("he")
    yield {"type": "response.output_text.delta"}


async def nothing() -> AsyncIterator[Any]:
    return
    yield


async def half() -> AsyncIterator[Any]:
    yield TextDelta("he")
    yield ItemDone(said("half"))


async def exits() -> AsyncIterator[Any]:
    yield TextDelta("he")
    raise SystemExit(1)


async def generator_exits() -> AsyncIterator[Any]:
    yield TextDelta("he")
    raise GeneratorExit


async def cancels() -> AsyncIterator[Any]:
    yield TextDelta("he")
    raise asyncio.CancelledError("the model's own")


async def times_out() -> AsyncIterator[Any]:
    yield TextDelta("he")
    raise TimeoutError("the server's")


async def breaks() -> AsyncIterator[Any]:
    yield TextDelta("he")
    raise StreamError("reset by peer")


async def goes_on() -> AsyncIterator[Any]:
    yield ItemDone(said("fine"))
    yield Completed(None)
    yield ItemDone(said("behind the end"))


BAD = [
    (rubbish, "the model yielded a dict, which is no model event"),
    (nothing, "stream closed before response.completed"),
    (half, "stream closed before response.completed"),
    (exits, "SystemExit: 1"),
    (generator_exits, "GeneratorExit"),
    (cancels, "CancelledError: the model's own"),
    (times_out, "TimeoutError: the server's"),
    (breaks, "stream disconnected before completion: reset by peer"),
]


@pytest.mark.parametrize(("stream", "error"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_failure_of_a_model_ends_its_turn_only(stream: Any, error: str) -> None:
    model = Model(stream, fine)
    with no_leaks(), ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
        assert result.error is not None
        assert error in result.error
        assert thread.agent_status() == AgentStatus.errored(result.error)
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
        assert manager.list_thread_ids().get(timeout=WAIT_S) == [thread.thread_id]
    assert (model.begun, model.closed) == (2, 2)
    assert (model.opened, model.left) == (1, 1)


def test_nothing_counts_behind_completed() -> None:
    model = Model(goes_on)
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
    assert result.items == (said("fine"),)
    assert model.closed == 1


def test_model_that_hangs_is_interrupted_and_closed() -> None:
    hung, closed = threading.Event(), threading.Event()

    async def hangs() -> AsyncIterator[Any]:
        yield TextDelta("he")
        hung.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    model = Model(hangs, fine)
    with no_leaks(), ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("hi")
        assert hung.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status == AgentStatus.INTERRUPTED
        assert closed.wait(WAIT_S)
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
    assert (model.begun, model.closed) == (2, 2)


def test_model_that_swallows_cancellation_holds_up_nothing() -> None:
    hung, release = threading.Event(), threading.Event()

    async def stubborn() -> AsyncIterator[Any]:
        hung.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        yield TextDelta("late")
        yield ItemDone(said("late"))
        yield Completed(None)

    model = Model(stubborn, fine)
    with ThreadManager(model=model, config=ManagerConfig(close_timeout_s=2.0)) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("hi")
        assert hung.wait(WAIT_S)
        thread.submit(Interrupt()).get(timeout=WAIT_S)
        assert running.get(timeout=WAIT_S).status == AgentStatus.INTERRUPTED
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"
        release.set()
        assert "late" not in str(thread._actor.record.history)


def test_close_does_not_wait_for_stubborn_model() -> None:
    hung, release = threading.Event(), threading.Event()

    async def stubborn() -> AsyncIterator[Any]:
        hung.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        yield Completed(None)

    with ThreadManager(model=Model(stubborn), config=ManagerConfig(close_timeout_s=0.3)) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("hi")
        assert hung.wait(WAIT_S)
        report = manager.close().get(timeout=WAIT_S)
        release.set()
    assert report.completed == (thread.thread_id,)
    assert report.is_drained


class OpensLate(Model):
    """Its first two `open()` fail."""

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self.opened += 1
        if self.opened < 3:
            raise ConnectionError(f"no server ({self.opened})")
        yield


def test_model_that_failed_to_open_is_tried_again() -> None:
    model = OpensLate(fine)
    with no_leaks(), ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("one").get(timeout=WAIT_S).error == "ConnectionError: no server (1)"
        assert thread.run("two").get(timeout=WAIT_S).error == "ConnectionError: no server (2)"
        assert thread.run("three").get(timeout=WAIT_S).text == "fine"
        assert thread.run("four").get(timeout=WAIT_S).text == "fine"
    assert (model.opened, model.begun) == (3, 2)


class OpenRaises(Model):
    def __init__(self, error: BaseException) -> None:
        super().__init__(fine)
        self._error = error

    def open(self) -> AbstractAsyncContextManager[Any]:
        self.opened += 1
        if self.opened == 1:
            raise self._error
        return nullcontext()


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError, ValueError])
def test_model_whose_open_raises_fails_its_turn(kind: type[BaseException]) -> None:
    model = OpenRaises(kind("no licence"))
    with no_leaks(), ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        result = thread.run("one").get(timeout=WAIT_S)
        assert result.error == f"{kind.__name__}: no licence"
        assert thread.run("two").get(timeout=WAIT_S).text == "fine"


class LeaveRaises(Model):
    def __init__(self, error: BaseException) -> None:
        super().__init__(fine)
        self._error = error

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        yield
        raise self._error


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, ConnectionError])
def test_model_that_fails_to_leave_holds_up_nothing(kind: type[BaseException]) -> None:
    with no_leaks(), ThreadManager(model=LeaveRaises(kind("lost"))) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).text == "fine"
        report = manager.close().get(timeout=WAIT_S)
    assert report.completed == (thread.thread_id,)


class StreamRaises(Model):
    def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        raise RuntimeError("not a generator at all")


def test_stream_that_raises_before_it_begins() -> None:
    with ThreadManager(model=StreamRaises(fine)) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).error == "RuntimeError: not a generator at all"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_own_loop_outlives_a_model_that_exits(error: type[BaseException]) -> None:
    async def exits() -> AsyncIterator[Any]:
        raise error
        yield

    with no_leaks(), ThreadManager(model=Model(exits, fine)) as manager:
        thread = manager.start_thread(Config()).get().thread
        assert thread.run("hi").get(timeout=WAIT_S).status.word == "errored"
        exited = thread.watch_status().until(lambda status: sys.exit(3))
        with pytest.raises(SystemExit):
            exited.get(timeout=WAIT_S)
        assert thread.run("again").get(timeout=WAIT_S).text == "fine"


class NotIterable(Model):
    def stream(self, prompt: Prompt) -> Any:
        return ["a", "list"]


def test_stream_that_is_no_iterator_fails_clearly() -> None:
    with ThreadManager(model=NotIterable(fine)) as manager:
        thread = manager.start_thread(Config()).get().thread
        error = thread.run("hi").get(timeout=WAIT_S).error
    assert error is not None
    assert "list" in error


def test_model_is_not_opened_without_a_turn() -> None:
    model = Model(fine)
    with ThreadManager(model=model) as manager:
        manager.start_thread(Config()).get()
    assert (model.opened, model.left) == (0, 0)


def test_one_model_serves_two_managers() -> None:
    model = Model(fine)
    with no_leaks(), ThreadManager(model=model) as one:
        first = one.start_thread(Config()).get().thread
        with ThreadManager(model=model) as two:
            second = two.start_thread(Config()).get().thread
            running = [thread.run("hi") for thread in (first, second) for _ in range(3)]
            assert {reply.get(timeout=WAIT_S).text for reply in running} == {"fine"}
            assert one.list_thread_ids().get() == [first.thread_id]
            assert two.list_thread_ids().get() == [second.thread_id]
            assert (model.opened, model.left) == (2, 0)
        assert (model.opened, model.left) == (2, 1)
        assert first.run("alone").get(timeout=WAIT_S).text == "fine"
    assert (model.opened, model.left) == (2, 2)
    assert model.begun == model.closed


def test_model_that_never_waits_leaves_the_loop_free() -> None:
    async def floods() -> AsyncIterator[Any]:
        while True:
            yield TextDelta("x")

    async def main() -> None:
        async with ThreadManager(model=Model(floods)) as manager:
            flooded = (await manager.start_thread(Config())).thread
            stream = flooded.events()
            running = flooded.run("hi")
            for _ in range(1_000):
                await stream.next(WAIT_S)
            assert await manager.list_thread_ids() == [flooded.thread_id]
            await flooded.submit(Interrupt())
            assert (await running).status == AgentStatus.INTERRUPTED

    asyncio.run(main())


def test_empty_answer_completes_without_text() -> None:
    with ThreadManager(model=ScriptedModel([[]])) as manager:
        thread = manager.start_thread(Config()).get().thread
        result = thread.run("hi").get(timeout=WAIT_S)
    assert (result.text, result.items) == (None, ())
    assert result.status == AgentStatus.completed(None)


def test_task_cancelled_before_its_first_step_ends_its_turn() -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel()) as manager:
            thread = (await manager.start_thread(Config())).thread
            loop = asyncio.get_running_loop()

            def cancelled(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
                task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
                task.cancel()
                return task

            loop.set_task_factory(cancelled)
            running = thread.run("x")
            assert "cancelled from outside" in ((await running).error or "")
            loop.set_task_factory(None)
            assert (await thread.run("again")).text == "echo: again"

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


def test_tools_that_cannot_be_described_fail_the_turn_only() -> None:
    class Odd:
        name, description, is_async, is_read_only, timeout_s = "odd", "", False, True, None

        def __init__(self) -> None:
            self.looks = 0

        @property
        def parameters(self) -> dict[str, Any]:
            self.looks += 1
            if self.looks > 1:
                raise RuntimeError("no parameters today")
            return {}

        def call(self, arguments: str, context: Any) -> Any:
            return ""

    odd = Odd()
    config = Config(tools=(odd,))
    odd.looks = 1
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = manager.start_thread(config).get(timeout=WAIT_S).thread
        result = thread.run("x").get(timeout=WAIT_S)
        assert result.error == "the turn task could not be started: no parameters today"
        assert thread.agent_status() == AgentStatus.errored(result.error)


def test_thread_whose_handler_fails_twice_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        running, ended = thread.run("x"), thread.watch_status().ended()
        assert gate.reached.wait(WAIT_S)

        def no_end(*_args: Any, **_options: Any) -> None:
            raise OSError("no end")

        monkeypatch.setattr("codex_actors.actors.thread.end_turn", no_end)
        assert manager._opened is not None
        pump = manager._opened.shared.pump
        pump.post(thread._actor.actor_inbox.put, Letter("foreign"))
        with pytest.raises(InternalAgentDied):
            running.get(timeout=WAIT_S)
        assert ended.get(timeout=WAIT_S).reason == "crashed"
        assert thread.agent_status().word == "errored"
        gate.open()


def test_provider_that_cannot_say_its_presets_begins_nothing() -> None:
    class Silent(Model):
        @property
        def presets(self) -> Any:
            raise RuntimeError("no presets today")

    with ThreadManager(model=Silent(lambda: None)) as manager:
        with pytest.raises(RuntimeError, match="no presets today"):
            manager.start_thread(Config()).get(timeout=WAIT_S)
        assert manager._opened is not None
        assert manager._opened.registry.actors() == []
        assert (
            manager.start_thread(Config(model="named")).get(timeout=WAIT_S).thread.agent_status().word == "pending_init"
        )
