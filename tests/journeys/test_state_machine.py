from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codex_actors import (
    CodexThread,
    Config,
    EventStream,
    Interrupt,
    ManagerConfig,
    NewThread,
    Prompt,
    Reply,
    ScriptedModel,
    Shutdown,
    ThreadId,
    ThreadManager,
    UserInput,
    tool,
)
from codex_actors.actors.record import ThreadRecord
from codex_actors.actors.thread import ThreadActor
from codex_actors.errors import InternalAgentDied, RolloutError, ThreadNotFound, UnsupportedOperation
from codex_actors.model.scripted import Gate
from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageDelta,
    Event,
    FunctionCallItem,
    ItemCompleted,
    ItemStarted,
    ShutdownComplete,
    TaskComplete,
    TaskStarted,
    TurnAborted,
    UserMessage,
)
from codex_actors.protocol.history import ROLLOUT_ITEM, as_rollout_item
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem
from codex_actors.protocol.ops import Op
from codex_actors.protocol.status import Ended
from codex_actors.rollout.forking import lines_of
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.truncation import is_user_message
from codex_actors.runtime.actor import LoopActor
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.status_watch import StatusCell
from codex_actors.tools.tool import ToolContext
from codex_actors.turn import TurnResult

T = TypeVar("T")

LIMIT_S = 10
MOST_LIVES = 8
ANY = st.integers(0, MOST_LIVES - 1)
STEERS = st.lists(st.booleans(), max_size=2)
"""Inputs that are sent while a turn is held; true where their sender waits for the result."""

CALLS = st.lists(st.sampled_from(["quick", "slow", "in_os_thread"]), max_size=2)
PLANS = st.builds(lambda calls, last: [*calls, last], CALLS, st.sampled_from(["held text", "text"]))
"""What the model does at its next requests; `slow` and `held text` wait at the gate."""


class Recorder(LoopActor):
    """Is told all that a thread publishes, and does not keep it alive."""

    is_registered = False

    def __init__(self, made: list[Recorder], pump: Pump) -> None:
        super().__init__(pump=pump)
        self.told: list[Any] = []
        made.append(self)

    def on_receive(self, message: Any) -> None:
        self.told.append(message)


@dataclass
class Life:
    """The simple model of a thread, from its start or resume to its end.

    Attributes:
        texts: The inputs in its history.
        waiting: The inputs that were accepted and are not in it yet.
        gate: Where its turn is held, or None where it is idle.
        reason: How it ended.
    """

    handle: CodexThread | None
    stream: EventStream | None
    recorder: Recorder
    actor: weakref.ref[ThreadActor]
    cell: StatusCell
    thread_id: ThreadId
    path: Path
    texts: list[str]
    waiting: list[str]
    known: int
    """How many of the texts were there at its birth."""
    has_file: bool = False
    is_listed: bool = True
    gate: Gate | None = None
    reason: str | None = None
    runs: list[Reply[TurnResult]] = field(default_factory=list)
    seen: list[Event] = field(default_factory=list)
    record: ThreadRecord | None = None

    def take_waiting(self) -> None:
        self.texts += self.waiting
        self.waiting = []


class ThreadsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # A crash is logged with its frames, and a kept log record would keep the actor.
        logging.getLogger("pykka").propagate = False
        self.loop = asyncio.new_event_loop()
        self.home = TemporaryDirectory()
        self.lives: list[Life] = []
        self.order: list[ThreadId] = []
        self.plans: dict[ThreadId, deque[str]] = {}
        self.gates: dict[ThreadId, Gate] = {}
        self.count = 0
        self.is_closed = False
        self.config = Config(tools=self.tools())

    @initialize(durability=st.sampled_from(["memory", "flush"]))
    def enter(self, durability: Any) -> None:
        self.manager = self.new_manager(durability)
        self.run(self.manager.__aenter__())

    def new_manager(self, durability: Any) -> ThreadManager:
        config = ManagerConfig(durability=durability, block_warning_s=0)
        return ThreadManager(self.home.name, model=ScriptedModel(self.answer, delta_chars=4), config=config)

    # --- the model that threads talk to ----------------------------------------------------------------------------

    async def answer(self, prompt: Prompt) -> str | list[ResponseItem]:
        plan = self.plans.get(prompt.thread_id)
        step = plan.popleft() if plan else "text"
        if step == "held text":
            await self.gates[prompt.thread_id].pass_through()
        self.count += 1
        if "text" in step:
            return f"answer {self.count}"
        return [FunctionCall(name=step, call_id=f"call-{self.count}", arguments="{}")]

    def tools(self) -> tuple[Any, ...]:
        @tool
        async def quick() -> str:
            return "quickly"

        @tool
        async def slow(context: ToolContext) -> str:
            await self.gates[context.thread_id].pass_through()
            return "slowly"

        @tool
        def in_os_thread() -> str:
            return "elsewhere"

        return quick, slow, in_os_thread

    # --- how -------------------------------------------------------------------------------------------------------

    def run(self, awaitable: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(LIMIT_S):
                return await awaitable

        return self.loop.run_until_complete(limited())

    def when(self, cell: StatusCell, holds: Callable[[], bool]) -> None:
        reached = self.loop.create_future()

        def look() -> bool:
            if holds() and not reached.done():
                reached.set_result(None)
            return reached.done()

        cell.wait(look)
        self.run(reached)

    def until_idle(self, life: Life) -> None:
        actor = life.actor()
        assert actor is not None
        self.when(
            life.cell,
            lambda: (
                life.cell.status.word != "running"
                and actor.phase == "idle"
                and not (actor.waiting and actor.waiting.inputs)
            ),
        )

    def until_ended(self, life: Life, reason: str) -> None:
        self.when(life.cell, lambda: life.cell.ended is not None)
        life.reason, life.is_listed, life.gate = reason, False, None
        self.order = [thread_id for thread_id in self.order if thread_id != life.thread_id]

    def born(self, new: NewThread, texts: Sequence[str] = (), waiting: Sequence[str] = ()) -> Life:
        thread, actor = new.thread, new.thread._actor
        assert new.session_configured is thread.session_configured
        assert new.session_configured.session_id == new.thread_id == thread.thread_id
        made: list[Recorder] = []
        self.run(thread.subscribe(Recorder.start(made, thread._shared.pump)))
        path = thread.rollout_path
        assert path is not None
        life = Life(
            handle=thread,
            stream=thread.events(),
            recorder=made[0],
            actor=weakref.ref(actor),
            cell=actor.cell,
            thread_id=thread.thread_id,
            path=path,
            texts=list(texts),
            waiting=list(waiting),
            known=len(texts),
        )
        self.lives.append(life)
        self.order.append(life.thread_id)
        return life

    def latest(self) -> list[Life]:
        return list({life.thread_id: life for life in self.lives}.values())

    def pick(self, index: int, fits: Callable[[Life], bool] = lambda _: True) -> Life | None:
        fitting = [life for life in self.latest() if fits(life)]
        return fitting[index % len(fitting)] if fitting else None

    def held(self, index: int) -> Life | None:
        return self.pick(index, lambda life: life.handle is not None and life.reason is None and life.gate is not None)

    def idle(self, index: int) -> Life | None:
        return self.pick(index, lambda life: life.handle is not None and life.reason is None and life.gate is None)

    def usable(self, index: int) -> Life | None:
        return self.pick(index, lambda life: life.handle is not None and life.reason is None)

    def text(self) -> str:
        self.count += 1
        return f"input {self.count}"

    def statuses(self, life: Life) -> set[str]:
        runs, life.runs = life.runs, []
        return {self.run(reply).status.word for reply in runs}

    # --- rules -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_closed and len(self.lives) < MOST_LIVES)
    @rule(plan=st.none() | PLANS, steers=STEERS)
    def start(self, plan: list[str] | None, steers: list[bool]) -> None:
        life = self.born(self.run(self.manager.start_thread(self.config)))
        if plan is not None:
            self.begin_turn(life, plan, True, steers)

    @precondition(lambda self: self.idle(0))
    @rule(index=ANY, plan=PLANS, as_run=st.booleans(), steers=STEERS)
    def submit(self, index: int, plan: list[str], as_run: bool, steers: list[bool]) -> None:
        life = self.idle(index)
        assert life is not None
        self.begin_turn(life, plan, as_run, steers)

    def begin_turn(self, life: Life, plan: list[str], as_run: bool, steers: list[bool]) -> None:
        assert life.handle is not None
        text = self.text()
        self.plans[life.thread_id], gate = deque(plan), Gate()
        self.gates[life.thread_id] = gate
        life.waiting.append(text)
        life.take_waiting()
        life.has_file = True
        if as_run:
            life.runs.append(life.handle.run(text))
        else:
            self.run(life.handle.submit(UserInput(text)))
        if {"held text", "slow"} & set(plan):
            self.run(gate.wait_reached())
            life.gate = gate
            for is_run in steers:
                self.steer_one(life, is_run)
        else:
            assert self.statuses(life) <= {"completed"}
            self.until_idle(life)

    @precondition(lambda self: self.held(0))
    @rule(index=ANY, as_run=st.booleans())
    def steer(self, index: int, as_run: bool) -> None:
        life = self.held(index)
        assert life is not None
        self.steer_one(life, as_run)

    def steer_one(self, life: Life, as_run: bool) -> None:
        assert life.handle is not None
        text = self.text()
        life.waiting.append(text)
        if as_run:
            life.runs.append(life.handle.run(text))
        else:
            self.run(life.handle.submit(UserInput(text)))

    @precondition(lambda self: self.pick(0, lambda life: life.gate is not None))
    @rule(index=ANY)
    def open_gate(self, index: int) -> None:
        life = self.pick(index, lambda life: life.gate is not None)
        assert life is not None
        assert life.gate is not None
        life.gate.open()
        life.gate = None
        life.take_waiting()
        assert self.statuses(life) <= {"completed"}
        if life.handle is None and not life.is_listed:
            self.until_ended(life, "shutdown")
        else:
            self.until_idle(life)

    @precondition(lambda self: self.usable(0))
    @rule(index=ANY)
    def interrupt(self, index: int) -> None:
        life = self.usable(index)
        assert life is not None
        assert life.handle is not None
        told = len(life.recorder.told)
        self.run(life.handle.submit(Interrupt()))
        if life.gate is not None:
            life.gate = None
            life.take_waiting()
            assert self.statuses(life) <= {"interrupted"}
            self.until_idle(life)
        else:
            self.settle()
            assert len(life.recorder.told) == told

    @precondition(lambda self: self.idle(0))
    @rule(index=ANY, kinds=st.lists(st.sampled_from(["run", "submit", "interrupt"]), min_size=2, max_size=6))
    def burst(self, index: int, kinds: list[str]) -> None:
        life = self.idle(index)
        assert life is not None
        assert life.handle is not None
        self.plans.pop(life.thread_id, None)
        accepted: list[Reply[str]] = []
        for kind in kinds:
            text = self.text()
            op: Op = Interrupt() if kind == "interrupt" else UserInput(text)
            if kind != "interrupt":
                life.waiting.append(text)
            if kind == "run":
                life.runs.append(life.handle.run(text))
            else:
                accepted.append(life.handle.submit(op))
        for reply in accepted:
            self.run(reply)
        if set(kinds) != {"interrupt"}:
            life.take_waiting()
            life.has_file = True
        assert self.statuses(life) <= {"completed", "interrupted"}
        self.until_idle(life)

    @precondition(lambda self: self.usable(0))
    @rule(index=ANY)
    def shut_down(self, index: int) -> None:
        life = self.usable(index)
        assert life is not None
        assert life.handle is not None
        self.run(life.handle.submit(Shutdown()))
        if life.gate is not None:
            life.take_waiting()
        assert self.statuses(life) <= {"interrupted"}
        self.until_ended(life, "shutdown")
        with pytest.raises(InternalAgentDied):
            self.run(life.handle.submit(UserInput("too late")))

    @precondition(lambda self: self.usable(0))
    @rule(index=ANY)
    def crash(self, index: int) -> None:
        life = self.usable(index)
        assert life is not None
        assert life.handle is not None
        life.handle._actor.actor_ref.tell("a foreign message")
        for reply in life.runs:
            with pytest.raises(InternalAgentDied):
                self.run(reply)
        life.runs = []
        self.until_ended(life, "crashed")

    @precondition(lambda self: not self.is_closed and self.lives)
    @rule(index=ANY)
    def remove(self, index: int) -> None:
        life = self.pick(index)
        assert life is not None
        removed = self.run(self.manager.remove_thread(life.thread_id))
        assert (removed is not None) == life.is_listed
        if removed is not None:
            assert life.handle in (None, removed)
            life.is_listed = False
            self.order.remove(life.thread_id)
            del removed
            self.end_if_unheld(life)

    @precondition(lambda self: self.usable(0))
    @rule(index=ANY)
    def drop(self, index: int) -> None:
        life = self.usable(index)
        assert life is not None
        assert life.stream is not None
        self.read(life)
        life.stream.close()
        life.handle = life.stream = None
        life.runs = []
        self.end_if_unheld(life)

    @precondition(lambda self: not self.is_closed and self.held(0))
    @rule(again=st.sampled_from(["resume", "fork", "close", None]))
    def let_go(self, again: str | None) -> None:
        life = self.held(0)
        assert life is not None
        assert life.stream is not None
        index = self.latest().index(life)
        self.remove(index)
        life.stream.close()
        life.handle = life.stream = None
        life.runs = []
        self.settle()
        if again == "resume":
            self.resume(index)
        elif again == "fork" and len(self.lives) < MOST_LIVES:
            self.fork(index, None, by_id=True)
        elif again == "close":
            self.close()

    def end_if_unheld(self, life: Life) -> None:
        if life.handle is None and not life.is_listed and life.gate is None:
            self.until_ended(life, "shutdown")

    @precondition(lambda self: not self.is_closed and self.lives)
    @rule(index=ANY)
    def get(self, index: int) -> None:
        life = self.pick(index)
        assert life is not None
        if not life.is_listed:
            with pytest.raises(ThreadNotFound):
                self.run(self.manager.get_thread(life.thread_id))
            return
        self.hold(life, self.run(self.manager.get_thread(life.thread_id)))

    def hold(self, life: Life, handle: CodexThread) -> None:
        assert life.handle in (None, handle)
        assert handle._actor is life.actor()
        if life.handle is None:
            life.handle, life.stream = handle, handle.events()
            life.seen = [told for told in life.recorder.told if isinstance(told, Event)]

    @precondition(lambda self: not self.is_closed and 0 < len(self.lives) < MOST_LIVES)
    @rule(index=ANY)
    def resume(self, index: int) -> None:
        life = self.pick(index)
        assert life is not None
        reply = self.manager.resume_thread_from_rollout(self.config, life.path)
        if life.reason is not None and not life.has_file:
            with pytest.raises(RolloutError, match="no such rollout file"):
                self.run(reply)
        elif life.reason is not None:
            self.born(self.run(reply), life.texts, life.waiting).has_file = True
        else:
            new = self.run(reply)
            self.hold(life, new.thread)
            if not life.is_listed:
                life.is_listed = True
                self.order.append(life.thread_id)

    @precondition(lambda self: not self.is_closed and 0 < len(self.lives) < MOST_LIVES)
    @rule(index=ANY, nth=st.none() | st.integers(0, 3), by_id=st.booleans())
    def fork(self, index: int, nth: int | None, by_id: bool) -> None:
        life = self.pick(index)
        assert life is not None
        reply = self.manager.fork_thread(nth, self.config, life.thread_id if by_id else life.path)
        if life.reason is not None and not life.has_file:
            with pytest.raises(ThreadNotFound if by_id else RolloutError):
                self.run(reply)
            return
        texts = life.texts if nth is None else life.texts[:nth] if nth < len(life.texts) else []
        fork = self.born(self.run(reply), texts)
        assert fork.thread_id != life.thread_id
        fork.has_file = life.has_file and (nth is None or nth < len(life.texts))
        assert fork.path.exists() == fork.has_file

    @precondition(lambda self: not self.is_closed and sum(life.reason is None for life in self.lives) > 2)
    @rule()
    def close(self) -> None:
        self.is_closed = True
        report = self.run(self.manager.close())
        living = [life for life in self.lives if life.reason is None]
        assert report.completed == tuple(sorted(life.thread_id for life in living))
        assert (report.timed_out, report.unwritten, report.is_drained) == ((), (), True)
        for life in living:
            if life.gate is not None:
                life.take_waiting()
            assert self.statuses(life) <= {"interrupted"}
            self.until_ended(life, "shutdown")
        with pytest.raises(UnsupportedOperation):
            self.manager.list_thread_ids()

    @precondition(lambda self: self.is_closed)
    @rule(durability=st.sampled_from(["memory", "flush"]))
    def reopen(self, durability: Any) -> None:
        self.is_closed = False
        self.enter(durability)

    # --- what always holds -----------------------------------------------------------------------------------------

    def settle(self) -> list[ThreadId]:
        """Let everything happen that is on its way: the writer first, as events wait for it."""
        if self.is_closed:
            return self.order
        self.run(self.manager.list_thread_ids())
        assert self.manager._opened is not None
        assert self.manager._opened.shared.writer.drain(LIMIT_S)
        self.run(self.manager.list_thread_ids())
        return self.run(self.manager.list_thread_ids())

    def read(self, life: Life) -> None:
        while life.stream is not None and (event := life.stream.take()) is not None:
            life.seen.append(event)

    @invariant()
    def living_are_those_that_somebody_holds(self) -> None:
        assert self.settle() == self.order
        for life in self.lives:
            actor = life.actor()
            assert (actor is not None and not actor.has_ended) == (life.reason is None), life
            if actor is not None and life.reason is None:
                assert actor.phase == ("idle" if life.gate is None else "running")
                assert user_texts(actor.record.history) == life.texts

    @invariant()
    def events_of_each_thread_are_in_order(self) -> None:
        self.settle()
        for life in self.lives:
            told = life.recorder.told
            check_events(told, life)
            self.read(life)
            if life.handle is not None:
                assert life.seen == [event for event in told if isinstance(event, Event)]
                assert life.stream is not None
                assert (life.stream.ended is not None) == (life.reason is not None)

    @invariant()
    def file_holds_what_the_actor_recorded(self) -> None:
        self.settle()
        for life in self.lives:
            actor = life.actor()
            if actor is not None:
                life.record = actor.record
                if life.reason is None:
                    check_calls(actor.record.history, is_running=life.gate is not None)
        for life in self.latest():
            assert life.path.exists() == life.has_file
            if life.has_file:
                assert life.record is not None
                recorded = [ROLLOUT_ITEM.validate_json(line) for line in lines_of(life.record.recorded())]
                assert dumped(get_rollout_history(life.path).get_rollout_items()) == dumped(recorded)

    def teardown(self) -> None:
        logging.getLogger("pykka").propagate = True
        # In the teardown of a failed example these would only hide what failed.
        if hasattr(self, "manager") and sys.exc_info()[0] is None:
            self.ends_well()
        elif hasattr(self, "manager"):
            self.run(self.manager.close())
        self.loop.close()
        self.home.cleanup()

    def ends_well(self) -> None:
        if not self.is_closed:
            self.close()
            self.events_of_each_thread_are_in_order()
            self.file_holds_what_the_actor_recorded()
        self.run(self.every_file_resumes())
        actors = [life.actor for life in self.lives]
        self.lives = []
        gc.collect()  # errors that were raised on purpose hold frames, and those hold lives
        assert [actor() for actor in actors if actor() is not None] == []

    async def every_file_resumes(self) -> None:
        async with self.new_manager("memory") as manager:
            for life in self.latest():
                if not life.has_file:
                    continue
                self.plans.pop(life.thread_id, None)
                new = await manager.resume_thread_from_rollout(self.config, life.path)
                assert new.thread_id == life.thread_id
                assert (await new.thread.run("again")).status.word == "completed"
                history = new.thread._actor.record.history
                assert user_texts(history) == [*life.texts, *life.waiting, "again"]
                check_calls(history, is_running=False)


def user_texts(history: Sequence[ResponseItem]) -> list[str]:
    return [item.text for item in history if isinstance(item, Message) and is_user_message(item)]


def dumped(lines: Sequence[Any]) -> list[Any]:
    items = [as_rollout_item(line).model_dump(mode="json", exclude_none=True) for line in lines]
    return [{key: value for key, value in item.items() if key not in ("timestamp", "crc")} for item in items]


def check_calls(history: Sequence[ResponseItem], *, is_running: bool) -> None:
    called: list[str] = []
    closed: list[str] = []
    for item in history:
        if isinstance(item, FunctionCall):
            called.append(item.call_id)
        elif isinstance(item, FunctionCallOutput):
            assert item.call_id in called
            closed.append(item.call_id)
    if is_running and called and called[-1] not in closed:
        closed.append(called[-1])
    assert sorted(closed) == sorted(called)


def check_events(told: Sequence[Any], life: Life) -> None:
    turn_id: str | None = None
    turns: set[str] = set()
    texts: list[str] = []
    started: list[str] = []
    completed: list[str] = []
    deltas, lost_deltas = "", False
    events = [item for item in told if isinstance(item, Event)]
    assert [item for item in told if isinstance(item, Ended)] == (told[len(events) :] if life.reason else [])
    if life.reason is not None:
        assert [(item.thread_id, item.reason) for item in told[len(events) :]] == [(life.thread_id, life.reason)]
    for event in events:
        msg = event.msg
        if isinstance(msg, TaskStarted):
            assert turn_id is None
            assert event.id not in turns
            turn_id = event.id
            turns.add(turn_id)
        elif isinstance(msg, ShutdownComplete):
            assert turn_id is None
            assert event is events[-1]
        elif life.reason == "crashed" and event is events[-1]:
            turn_id = None
        else:
            assert event.id == turn_id
        match msg:
            case TaskComplete():
                assert not lost_deltas
                turn_id = None
            case TurnAborted():  # it may drop deltas, but no item that was told behind them
                turn_id, lost_deltas = None, False
            case UserMessage():
                texts.append(msg.message)
            case ItemStarted(item=FunctionCallItem(id=call_id)):
                started.append(call_id)
            case ItemCompleted(item=FunctionCallItem(id=call_id)):
                completed.append(call_id)
            case ItemStarted():
                deltas = ""
            case AgentMessageDelta():
                deltas += msg.delta
            case AgentMessage():
                assert msg.message.startswith(deltas)
                lost_deltas = lost_deltas or msg.message != deltas
    assert (turn_id is not None) == (life.gate is not None)
    assert texts == life.texts[life.known :]
    assert len(set(started)) == len(started)
    assert completed == (started[: len(completed)] if turn_id is not None else started)


ThreadsMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestThreads = pytest.mark.slow(ThreadsMachine.TestCase)
