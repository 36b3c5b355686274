from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pykka
import pytest

from codex_actors.errors import InternalAgentDied
from codex_actors.runtime.actor import LoopActor
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.mailbox import STEP_BOUND, Letter, Mailbox
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply


class Recorder(LoopActor):
    is_registered = False

    def __init__(self, pump: Pump, born: Callable[[Recorder], None]) -> None:
        super().__init__(pump=pump)
        self.seen: list[Any] = []
        self.born: Callable[[Recorder], None] | None = born

    def _start_actor_loop(self) -> None:
        super()._start_actor_loop()
        born, self.born = self.born, None
        if born is not None:
            born(self)

    def on_receive(self, message: Any) -> Any:
        self.seen.append(message)
        return message

    def on_step(self, step: Any) -> None:
        self.seen.append(step)


def on_a_loop(test: Callable[[Recorder, Mailbox], Any]) -> None:
    async def main() -> None:
        born: list[Recorder] = []
        Recorder.start(Pump(asyncio.get_running_loop(), Clock()), born.append)
        actor = born.pop()
        await asyncio.wait_for(test(actor, actor.actor_inbox), 10)

    asyncio.run(main())


async def served(seen: list[Any], count: int) -> None:
    for _ in range(10_000):
        if len(seen) >= count:
            return
        await asyncio.sleep(0)
    pytest.fail(f"{len(seen)} of {count} were served")


def test_control_overtakes_steps_that_wait() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        for number in range(3):
            box.put_step(actor, f"step {number}")
        box.put(Letter("first"))
        box.put(Letter("second"))
        await served(actor.seen, 5)
        assert actor.seen == ["first", "second", "step 0", "step 1", "step 2"]

    on_a_loop(main)


def test_letters_from_elsewhere_come_in_order() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        def send() -> None:
            for number in range(200):
                box.put(Letter(number))

        await asyncio.to_thread(send)
        await served(actor.seen, 200)
        assert actor.seen == list(range(200))

    on_a_loop(main)


def test_a_full_step_lane_makes_its_task_wait() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        assert all(box.put_step(actor, number) for number in range(STEP_BOUND - 1))
        assert box.put_step(actor, STEP_BOUND - 1) is False
        await box.room()
        assert len(actor.seen) >= STEP_BOUND // 2
        await served(actor.seen, STEP_BOUND)
        assert actor.seen == list(range(STEP_BOUND))
        await box.room()

    on_a_loop(main)


def test_taking_all_steps_frees_a_task_that_waits() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        for number in range(STEP_BOUND):
            box.put_step(actor, number)
        waiting = asyncio.create_task(box.room())
        await asyncio.sleep(0)
        taken = box.take_steps()
        await waiting
        assert [*actor.seen, *taken] == list(range(STEP_BOUND))
        assert box.take_step() is None
        assert box.take_steps() == []

    on_a_loop(main)


def test_a_cancelled_wait_for_room_leaves_the_others() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        for number in range(STEP_BOUND):
            box.put_step(actor, number)
        first, second = asyncio.create_task(box.room()), asyncio.create_task(box.room())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled() or first.done()

    on_a_loop(main)


def test_closing_refuses_what_waits_and_what_comes() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        asked: Reply[Any] = Reply(actor.pump)
        late: Reply[Any] = Reply(actor.pump)
        hosts: pykka.ThreadingFuture[Any] = pykka.ThreadingFuture()
        box.put(Letter("told"))
        box.put(Letter("asked", asked))
        box.put_step(actor, "step")
        box.close()
        box.put(Letter("late", late))
        box.put(Letter("a host's", hosts))  # type: ignore[arg-type]
        for reply in (asked, late):
            with pytest.raises(InternalAgentDied, match="before it handled the message"):
                await reply
        with pytest.raises(InternalAgentDied):
            hosts.get(timeout=0)
        assert [letter.message for letter in actor.pump.dead_letters] == ["told"]
        assert box.put_step(actor, "too late") is True
        await box.room()
        await asyncio.sleep(0)
        assert actor.seen == []

    on_a_loop(main)


def test_closing_frees_a_task_that_waits_for_room() -> None:
    async def main(actor: Recorder, box: Mailbox) -> None:
        for number in range(STEP_BOUND):
            box.put_step(actor, number)
        waiting = asyncio.create_task(box.room())
        await asyncio.sleep(0)
        box.close()
        await waiting

    on_a_loop(main)


def test_an_empty_mailbox_has_nothing_to_get() -> None:
    async def main(_: Recorder, box: Mailbox) -> None:
        assert box.empty()
        assert box.take_step() is None
        with pytest.raises(LookupError):
            box.get()

    on_a_loop(main)


def test_only_waiting_messages_hold_the_actor() -> None:
    async def main() -> None:
        born: list[Recorder] = []
        pump = Pump(asyncio.get_running_loop(), Clock())
        ref = Recorder.start(pump, born.append)
        seen, actor = born[0].seen, weakref.ref(born.pop())
        assert actor() is None
        reply: Reply[Any] = Reply(pump)
        ref.actor_inbox.put(Letter("to nobody", reply))
        with pytest.raises(InternalAgentDied):
            await reply

        ref = Recorder.start(pump, born.append)
        seen, actor = born[0].seen, weakref.ref(born[0])
        born[0].actor_inbox.put(Letter("to it"))
        born.clear()
        assert actor() is not None
        await served(seen, 1)
        await asyncio.sleep(0)
        assert actor() is None
        assert seen == ["to it"]
        assert ref.actor_inbox.empty()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
