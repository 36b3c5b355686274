from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from typing import Any

import pykka
import pytest

from codex_actors.errors import DeadlockError, InternalAgentDied
from codex_actors.runtime.actor import LoopActor, StopFlag
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump
from codex_actors.testing import pykka_classes

Hosted, _ = pykka_classes()


class Recorder(Hosted):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.failed: list[Any] = []

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, type) and issubclass(message, BaseException):
            raise message("as asked")
        if message == "told":
            return list(self.told)
        self.told.append(message)
        return message

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        self.failed.append(exception_value)


def test_an_ask_that_races_a_stop_is_answered() -> None:
    ref = Recorder.start()
    asks = [ref.ask(number, block=False) for number in range(100)]
    stopped = ref.stop(block=False)
    late = [ref.ask(number, block=False) for number in range(100)]
    assert [ask.get(timeout=10) for ask in asks] == list(range(100))
    assert stopped.get(timeout=10)
    for ask in late:
        with pytest.raises(pykka.ActorDeadError):
            ask.get(timeout=10)


def test_a_failing_start_calls_on_failure() -> None:
    failed = threading.Event()

    class Failing(Hosted):  # type: ignore[misc,valid-type]
        def on_start(self) -> None:
            raise RuntimeError("no start")

        def on_failure(self, *_: Any) -> None:
            failed.set()

    ref = Failing.start()
    assert failed.wait(10)
    assert not ref.is_alive()


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_system_exit_stops_that_actor_only(error: type[BaseException]) -> None:
    other, ref = Recorder.start(), Recorder.start()
    with pytest.raises(InternalAgentDied):
        ref.ask(error, timeout=10)
    assert not ref.is_alive()
    assert other.ask("alive", timeout=10) == "alive"
    other.stop()


def test_tells_keep_the_order_of_each_sender() -> None:
    ref = Recorder.start()

    def send(name: int) -> None:
        for number in range(500):
            ref.tell((name, number))

    senders = [threading.Thread(target=send, args=(name,)) for name in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    told = ref.ask("told", timeout=10)
    assert len(told) == 4_000
    for name in range(8):
        assert [number for sender, number in told if sender == name] == list(range(500))
    ref.stop()


def test_a_keyboard_interrupt_passes_and_the_mailbox_goes_on() -> None:
    class Interrupted(LoopActor):
        told: list[str]

        def on_receive(self, message: Any) -> Any:
            if message == "interrupt":
                raise KeyboardInterrupt
            self.told.append(message)
            return None

    loop = asyncio.new_event_loop()
    actor = Interrupted(pump=Pump(loop, Clock()))
    actor.told = []
    for message in ("a", "interrupt", "b"):
        actor.actor_ref.tell(message)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert actor.told == ["a", "b"]
    loop.close()


def test_an_actor_lives_while_something_holds_it() -> None:
    class Held(LoopActor):
        def on_receive(self, message: Any) -> Any:
            return message

    async def main() -> None:
        actor = Held(pump=Pump(asyncio.get_running_loop(), Clock()))
        ref, weak = actor.actor_ref, weakref.ref(actor)
        reply = ref.ask("waiting", block=False)
        gc.disable()
        try:
            del actor
            assert weak() is not None
            assert await reply == "waiting"
            assert weak() is None
        finally:
            gc.enable()
        with pytest.raises(InternalAgentDied):
            await ref.ask("gone", block=False)

    asyncio.run(main())


def test_a_failing_tell_answers_the_asks_behind_it() -> None:
    ref = Recorder.start()
    ref.tell(ValueError)
    for ask in [ref.ask(number, block=False) for number in range(10)]:
        with pytest.raises(pykka.ActorDeadError):
            ask.get(timeout=10)


async def use_an_actor() -> None:
    class Echo(LoopActor):
        def on_receive(self, message: Any) -> Any:
            if isinstance(message, BaseException):
                raise message
            return message

    actor = Echo(pump=Pump(asyncio.get_running_loop(), Clock()))
    ref = actor.actor_ref
    assert await asyncio.gather(*[ref.ask(number, block=False) for number in range(200)]) == list(range(200))
    with pytest.raises(ZeroDivisionError):
        await ref.ask(ZeroDivisionError(), block=False)
    with pytest.raises(DeadlockError):
        ref.ask("blocking")
    assert await ref.stop(block=False)
    assert not await ref.stop(block=False)


@pytest.mark.parametrize("is_debug", [False, True])
def test_an_actor_works_on_asyncio(is_debug: bool) -> None:
    asyncio.run(use_an_actor(), debug=is_debug)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
def test_an_actor_works_among_eager_tasks() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        await asyncio.create_task(use_an_actor())

    asyncio.run(main())


def test_an_actor_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use_an_actor())


def test_stop_flag_wakes_who_waits_for_it() -> None:
    flag = StopFlag()
    assert not flag.wait(0)
    waiting = threading.Thread(target=flag.wait, args=(10,))
    waiting.start()
    flag.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert flag.wait(0)
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0)
