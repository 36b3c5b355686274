from __future__ import annotations

import asyncio
import threading

import pykka
import pytest

from codex_actors import Config, ScriptedModel, ThreadManager
from codex_actors.errors import DeadlockError, InvalidRequest, ReplyTimeout
from codex_actors.runtime.clock import SimulatedClock
from codex_actors.testing import VirtualLoop, gate, no_leaks, probe, pykka_classes


def test_a_probe_records_what_it_is_told() -> None:
    with probe() as watched:
        for message in (1, 2, "three", 4):
            watched.ref.tell(message)
        assert watched.next() == 1
        assert watched.until(str) == [2, "three"]
        assert watched.next() == 4


def test_a_probe_that_is_told_nothing_says_so() -> None:
    with probe() as watched, pytest.raises(ReplyTimeout):
        watched.next(timeout_s=0.01)


def test_a_probe_ends_with_its_with() -> None:
    with no_leaks(), probe() as watched:
        assert watched.ref.is_alive()
    assert not watched.ref.is_alive()


def test_a_gate_holds_a_model_until_opened() -> None:
    held = gate()
    with ThreadManager(model=ScriptedModel(gate=held)) as manager:
        reply = manager.start_thread(Config()).get().thread.run("wait")
        assert held.reached.wait(10)
        assert not reply.done()
        held.open()
        assert reply.get(timeout=10).text == "echo: wait"


def test_a_gate_elsewhere_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not start or deltas"):
        gate("nowhere")


def test_no_leaks_passes_where_nothing_is_left() -> None:
    with no_leaks(), ThreadManager() as manager:
        manager.start_thread(Config()).get().thread.run("hello").get(timeout=10)


def test_no_leaks_names_a_manager_left_open() -> None:
    manager = ThreadManager()

    def leave_open() -> None:
        manager.__enter__()
        manager.start_thread(Config()).get()

    with pytest.raises(AssertionError, match=r"codex_actors-loop.*2 live actors"), no_leaks(timeout_s=0.01):
        leave_open()
    manager.__exit__(None, None, None)


def test_no_leaks_names_a_task_left_over() -> None:
    async def main() -> None:
        never = asyncio.Event()
        tasks = []
        with pytest.raises(AssertionError, match="task left over"), no_leaks(timeout_s=0.01):
            tasks.append(asyncio.create_task(never.wait(), name="left over"))
        never.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_no_leaks_does_not_count_earlier_tasks() -> None:
    async def main() -> None:
        never = asyncio.Event()
        earlier = asyncio.create_task(never.wait())
        with no_leaks(timeout_s=0.01):
            pass
        never.set()
        await earlier

    asyncio.run(main())


def test_no_leaks_lets_an_error_through() -> None:
    stop = threading.Event()

    def leave_and_raise() -> None:
        threading.Thread(target=stop.wait, daemon=True).start()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), no_leaks(timeout_s=0.01):
        leave_and_raise()
    stop.set()


def test_pykka_classes_make_actors_on_a_loop() -> None:
    actor_class, future_class = pykka_classes()

    class Echo(actor_class):  # type: ignore[misc,valid-type]
        def on_receive(self, message: str) -> str:
            return f"{threading.current_thread().name}: {message}"

    refs = [Echo.start() for _ in range(3)]
    try:
        assert {ref.ask("hi", timeout=10) for ref in refs} == {"codex_actors-loop: hi"}
        future = future_class()
        future.set(1)
        assert future.get() == 1
    finally:
        pykka.ActorRegistry.stop_all()
    assert not any(ref.is_alive() for ref in refs)


def test_an_ask_inside_such_an_actor_is_refused() -> None:
    actor_class, _ = pykka_classes()

    class Asks(actor_class):  # type: ignore[misc,valid-type]
        def on_receive(self, message: pykka.ActorRef[pykka.Actor]) -> str:
            return str(message.ask("anything", timeout=10))

    first, second = Asks.start(), Asks.start()
    with pytest.raises(DeadlockError):
        first.ask(second, timeout=10)
    first.stop()
    second.stop(block=False)


def test_a_virtual_loop_jumps_over_what_nobody_waits() -> None:
    clock = SimulatedClock(seed=1)
    began_s = clock.now_s()

    async def main() -> list[str]:
        order: list[str] = []

        async def nap(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        await asyncio.gather(nap("day", 86_400), nap("hour", 3_600), nap("now", 0))
        return order

    loop = VirtualLoop(clock)
    try:
        assert loop.run_until_complete(main()) == ["now", "hour", "day"]
        assert loop.time() == pytest.approx(86_400)
        assert clock.now_s() - began_s == pytest.approx(86_400)
    finally:
        loop.close()


def test_a_virtual_loop_still_hears_other_os_threads() -> None:
    async def main() -> str:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: threading.current_thread().name)

    loop = VirtualLoop(SimulatedClock(seed=1))
    try:
        assert loop.run_until_complete(main()).startswith("asyncio")
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
