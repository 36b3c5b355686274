from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codex_actors import AgentStatus, Config, ManagerConfig, Prompt, ScriptedModel, ThreadId, ThreadManager
from codex_actors.actors.thread import ThreadActor
from codex_actors.errors import AgentLimitReached, ThreadNotFound
from codex_actors.protocol.events import Event, TaskComplete, TaskStarted, TurnAborted
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message
from codex_actors.protocol.status import Ended, is_final
from codex_actors.runtime.actor import LoopActor
from codex_actors.runtime.pump import Pump
from codex_actors.testing import no_leaks
from codex_actors.tools.agents import agent_tools

T = TypeVar("T")

LIMIT_S = 10
MAX_AGENTS = 3
MAX_DEPTH = 3
MOST_AGENTS = 12
CONFIG = Config(tools=agent_tools(), max_agents=MAX_AGENTS, max_depth=MAX_DEPTH)
ANY = st.integers(0, MOST_AGENTS - 1)
SOME = st.lists(ANY, min_size=1, max_size=3)
FOREIGN = "TypeError: str is no message to a thread"


class Recorder(LoopActor):
    """Is told all that a thread publishes, and does not keep it alive."""

    is_registered = False

    def __init__(self, made: list[Recorder], pump: Pump) -> None:
        super().__init__(pump=pump)
        self.told: list[Any] = []
        made.append(self)

    def on_receive(self, message: Any) -> None:
        self.told.append(message)


@dataclass(eq=False)
class Agent:
    """The simple model of an agent, or of a root: `parent` is None.

    Attributes:
        state: Its model is asked what to do, it is in a wait for others, it has no turn, or it has ended.
        is_owed: Whether a turn has begun whose outcome its parent was not told.
        waiting: Inputs that its turn has not taken in.
        told: The outcomes of its children that it has to learn.
        left: Whom it still waits for, in a wait for all; in a wait for any, it is over as soon as one of them is final.
        turns: How many have begun.
    """

    thread_id: ThreadId
    parent: Agent | None
    actor: weakref.ref[ThreadActor]
    recorder: Recorder
    state: str = "asked"
    status: AgentStatus = AgentStatus.RUNNING
    is_owed: bool = True
    waiting: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)
    children: list[Agent] = field(default_factory=list)
    left: list[Agent] = field(default_factory=list)
    is_any: bool = False
    turns: int = 1

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def root(self) -> Agent:
        return self if self.parent is None else self.parent.root

    @property
    def is_running(self) -> bool:
        return self.state in ("asked", "waits")

    def below(self) -> Iterator[Agent]:
        for child in self.children:
            yield child
            yield from child.below()

    def ends_turn(self, status: AgentStatus) -> None:
        """With an outcome, which its parent learns if it has not ended."""
        self.state, self.status = "idle", status
        self.report(status)
        if self.waiting:
            self.begins_turn()

    def begins_turn(self) -> None:
        self.state, self.status, self.is_owed, self.waiting = "asked", AgentStatus.RUNNING, True, 0
        self.turns += 1

    def report(self, status: AgentStatus) -> None:
        self.is_owed = False
        if self.parent is not None and self.parent.state != "ended":
            self.parent.told.append((self.thread_id, json.dumps(status.to_wire())))

    def is_interrupted(self) -> None:
        for agent in (self, *self.below()):
            if agent.is_running:
                agent.state, agent.status, agent.waiting = "idle", AgentStatus.INTERRUPTED, 0

    def ends(self, status: AgentStatus) -> None:
        if self.is_owed or status.word == "errored":
            self.report(status)
        self.state, self.status = "ended", status
        for agent in self.below():
            if agent.state != "ended":
                agent.state, agent.status = "ended", AgentStatus.SHUTDOWN


class AgentsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # A crash is logged with its frames, and a kept log record would keep the actor.
        logging.getLogger("pykka").propagate = False
        self.leaks = ExitStack()
        self.leaks.enter_context(no_leaks())
        self.loop = asyncio.new_event_loop()
        self.agents: list[Agent] = []
        self.asks: dict[ThreadId, tuple[asyncio.Future[Any], Prompt]] = {}
        self.replies: list[Any] = []
        self.count = 0

    @initialize()
    def enter(self) -> None:
        config = ManagerConfig(block_warning_s=0)
        self.manager = ThreadManager(model=ScriptedModel(self.answer), config=config)
        self.run(self.manager.__aenter__())
        self.start()

    async def answer(self, prompt: Prompt) -> Any:
        """What a rule decides, as soon as one does."""
        asked = self.asks[prompt.thread_id] = (self.loop.create_future(), prompt)
        try:
            decision = await asked[0]
        finally:
            if self.asks.get(prompt.thread_id) is asked:
                del self.asks[prompt.thread_id]
        if isinstance(decision, Exception):
            raise decision
        return decision

    # --- how -------------------------------------------------------------------------------------------------------

    def run(self, awaitable: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(LIMIT_S):
                return await awaitable

        return self.loop.run_until_complete(limited())

    def reach(self, holds: Callable[[], bool]) -> None:
        """Until it holds, which it has to within the limit; then all that is still on its way happens."""

        async def reached() -> None:
            while not holds():
                await self.manager.list_thread_ids()
            for _ in range(5):
                await self.manager.list_thread_ids()

        self.run(reached())

    def settle(self) -> None:
        """Waits that are over by now are; then the runtime has to come to what the model is in."""
        before = -1
        while before != (before := sum(agent.state == "waits" for agent in self.agents)):
            for agent in self.agents:
                if agent.state == "waits" and self.is_over(agent):
                    agent.state, agent.waiting = "asked", 0
        self.reach(lambda: self.actual() == self.expected())

    def is_over(self, agent: Agent) -> bool:
        final = [other for other in agent.left if is_final(other.status)]
        agent.left = [other for other in agent.left if other not in final]
        return not agent.left or (agent.is_any and bool(final))

    def expected(self) -> list[Any]:
        return [
            (agent.state == "asked", agent.is_running, agent.state == "ended", agent.status) for agent in self.agents
        ]

    def actual(self) -> list[Any]:
        rows: list[Any] = []
        for agent in self.agents:
            actor = agent.actor()
            if actor is None or actor.has_ended:
                rows.append((agent.thread_id in self.asks, False, True, self.last_status(agent)))
            else:
                is_running = actor.phase == "running"
                rows.append((agent.thread_id in self.asks, is_running, False, actor.cell.status))
        return rows

    def last_status(self, agent: Agent) -> AgentStatus | None:
        """Of one that has ended: by its end, as the actor may be gone; None while that is on its way."""
        for told in agent.recorder.told:
            if isinstance(told, Ended):
                return AgentStatus.errored(told.message or "") if told.reason == "crashed" else AgentStatus.SHUTDOWN
        return None

    def born(self, thread_id: ThreadId, parent: Agent | None) -> Agent:
        async def watched() -> Agent:
            thread = await self.manager.get_thread(thread_id)
            made: list[Recorder] = []
            await thread.subscribe(Recorder.start(made, thread._shared.pump))
            return Agent(thread_id, parent, weakref.ref(thread._actor), made[0])

        agent = self.run(watched())
        self.agents.append(agent)
        if parent is not None:
            parent.children.append(agent)
        return agent

    def pick(self, index: int, *states: str) -> Agent | None:
        fitting = [agent for agent in self.agents if agent.state in states]
        return fitting[index % len(fitting)] if fitting else None

    def living_roots(self) -> list[Agent]:
        return [agent for agent in self.agents if agent.parent is None and agent.state != "ended"]

    def decide(self, agent: Agent, decision: Any) -> None:
        self.asks[agent.thread_id][0].set_result(decision)

    def calls(self, agent: Agent, name: str, **arguments: Any) -> str:
        self.count += 1
        call = FunctionCall(call_id=f"call-{self.count}", name=name, arguments=json.dumps(arguments))
        self.decide(agent, [call])
        return call.call_id

    def reads(self, agent: Agent, call_id: str) -> Any:
        """The output of its call, once it is asked again."""

        def is_read() -> bool:
            asked = self.asks.get(agent.thread_id)
            return asked is not None and self.output(asked[1], call_id) is not None

        self.reach(is_read)
        agent.waiting = 0
        text = self.output(self.asks[agent.thread_id][1], call_id)
        assert text is not None
        return json.loads(text) if text.startswith("{") else text

    def output(self, prompt: Prompt, call_id: str) -> str | None:
        outputs = (item for item in prompt.input if isinstance(item, FunctionCallOutput) and item.call_id == call_id)
        return next((str(item.output) for item in outputs), None)

    # --- rules -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.agents) < MOST_AGENTS and len(self.living_roots()) < 2)
    @rule()
    def start(self) -> None:
        new = self.run(self.manager.start_thread(CONFIG))
        self.born(new.thread_id, None)
        self.replies.append(new.thread.run("root"))
        self.settle()

    @precondition(lambda self: self.pick(0, "asked") and len(self.agents) < MOST_AGENTS)
    @rule(index=ANY)
    def spawn(self, index: int) -> None:
        agent = self.pick(index, "asked")
        assert agent is not None
        self.spawn_one(agent)

    @precondition(lambda self: self.pick(0, "asked") and len(self.agents) + MAX_DEPTH < MOST_AGENTS)
    @rule(index=ANY, levels=st.integers(2, MAX_DEPTH))
    def spawn_a_chain(self, index: int, levels: int) -> None:
        agent = self.pick(index, "asked")
        for _ in range(levels):
            if agent is not None and agent.state == "asked":
                agent = self.spawn_one(agent)

    def spawn_one(self, agent: Agent) -> Agent | None:
        child = None
        at_work = sum(other.is_running for other in agent.root.below())
        output = self.reads(agent, self.calls(agent, "spawn_agent", message="a task"))
        if agent.depth + 1 > MAX_DEPTH:
            assert output.startswith(f"agent depth limit reached (max {MAX_DEPTH})")
        elif at_work >= MAX_AGENTS:
            assert output.startswith(f"agent thread limit reached (max {MAX_AGENTS}): {at_work} at work")
        else:
            child = self.born(ThreadId(output["agent_id"]), agent)
        self.settle()
        return child

    @precondition(lambda self: self.pick(0, "asked"))
    @rule(index=ANY, fails=st.booleans())
    def finish(self, index: int, fails: bool) -> None:
        agent = self.pick(index, "asked")
        assert agent is not None
        self.count += 1
        self.decide(agent, RuntimeError(f"{self.count}") if fails else f"answer {self.count}")
        text = f"RuntimeError: {self.count}" if fails else f"answer {self.count}"
        agent.ends_turn(AgentStatus.errored(text) if fails else AgentStatus.completed(text))
        self.settle()

    @precondition(lambda self: self.pick(0, "asked"))
    @rule(index=ANY, others=SOME, mode=st.sampled_from(["any", "all"]))
    def wait(self, index: int, others: list[int], mode: str) -> None:
        agent = self.pick(index, "asked")
        assert agent is not None
        targets = [self.agents[other % len(self.agents)] for other in others]
        ids = [target.thread_id for target in targets]
        call_id = self.calls(agent, "wait_agent", targets=ids, mode=mode, timeout_ms=3_600_000)
        if agent in targets:
            assert self.reads(agent, call_id) == "an agent cannot wait for itself"
        else:
            agent.state, agent.left, agent.is_any = "waits", list(dict.fromkeys(targets)), mode == "any"
        self.settle()

    @precondition(lambda self: self.pick(0, "asked", "waits", "idle"))
    @rule(index=ANY)
    def send(self, index: int) -> None:
        agent = self.pick(index, "asked", "waits", "idle")
        assert agent is not None
        reply = self.manager.agent_control().send_input(agent.thread_id, "more")
        at_work = sum(other.is_running for other in agent.root.below())
        if agent.is_running:
            agent.waiting += 1
        elif agent.parent is not None and at_work >= MAX_AGENTS:
            with pytest.raises(AgentLimitReached):
                self.run(reply)
            return
        else:
            agent.begins_turn()
        self.run(reply)
        self.settle()

    @precondition(lambda self: self.pick(0, "asked", "waits", "idle"))
    @rule(index=ANY, by=st.none() | ANY)
    def interrupt(self, index: int, by: int | None) -> None:
        agent = self.pick(index, "asked", "waits", "idle")
        other = None if by is None else self.pick(by, "asked")
        assert agent is not None
        self.lets(other, agent, "interrupt", lambda: self.manager.agent_control().interrupt_agent(agent.thread_id))

    @precondition(lambda self: self.pick(0, "asked", "waits", "idle"))
    @rule(index=ANY, by=st.none() | ANY)
    def close(self, index: int, by: int | None) -> None:
        agent = self.pick(index, "asked", "waits", "idle")
        other = None if by is None else self.pick(by, "asked")
        assert agent is not None
        self.lets(other, agent, "close", lambda: self.manager.agent_control().shutdown_agent(agent.thread_id))

    def lets(self, other: Agent | None, agent: Agent, what: str, by_host: Callable[[], Awaitable[Any]]) -> None:
        """Another agent, or the host, interrupts or closes an agent."""
        before = agent.status
        if other is None:
            self.run(by_host())
        else:
            call_id = self.calls(other, f"{what}_agent", target=agent.thread_id)
        if other is agent:
            assert self.reads(other, call_id).startswith(f"an agent cannot {what} itself")
            return
        if what == "close":
            agent.ends(AgentStatus.SHUTDOWN)
        elif agent.is_running:
            agent.is_interrupted()
        if other is not None and other.state == "asked":
            assert self.reads(other, call_id) == {"previous_status": before.to_wire()}
        self.settle()

    @precondition(lambda self: self.pick(0, "asked", "waits", "idle"))
    @rule(index=ANY)
    def crash(self, index: int) -> None:
        agent = self.pick(index, "asked", "waits", "idle")
        assert agent is not None
        actor = agent.actor()
        assert actor is not None
        actor.actor_ref.tell("a foreign message")
        del actor
        agent.ends(AgentStatus.errored(FOREIGN))
        self.settle()

    @precondition(lambda self: self.pick(0, "ended"))
    @rule(index=ANY)
    def look_for_the_dead(self, index: int) -> None:
        agent = self.pick(index, "ended")
        assert agent is not None
        assert self.run(self.manager.agent_control().get_status(agent.thread_id)) == AgentStatus.NOT_FOUND
        with pytest.raises(ThreadNotFound):
            self.run(self.manager.agent_control().send_input(agent.thread_id, "more"))

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def only_so_many_agents_are_at_work(self) -> None:
        for agent in self.agents:
            actor = agent.actor()
            if actor is not None and agent.parent is None and agent.state != "ended":
                tree = actor.control.tree
                assert tree.at_work == {other.thread_id for other in agent.below() if other.is_running}
                assert len(tree.at_work) <= MAX_AGENTS
                living = {other.thread_id for other in agent.below() if other.state != "ended"}
                assert {other.thread_id for other in tree.members()} == living

    @invariant()
    def parents_learn_each_outcome_once(self) -> None:
        for agent in self.agents:
            actor = agent.actor()
            if actor is None or agent.state == "ended":
                continue
            waiting = [] if actor.waiting is None else actor.waiting.notices
            if not agent.is_running:
                assert waiting == []
            assert Counter(notices([*actor.record.history, *waiting])) == Counter(agent.told)
            open_calls = 0
            for item in actor.record.history:
                open_calls += isinstance(item, FunctionCall) - isinstance(item, FunctionCallOutput)
                assert isinstance(item, FunctionCall) or open_calls == 0

    @invariant()
    def every_turn_and_thread_ends_once(self) -> None:
        for agent in self.agents:
            events = [told.msg for told in agent.recorder.told if isinstance(told, Event)]
            ended = sum(isinstance(msg, TaskComplete | TurnAborted) for msg in events)
            assert sum(isinstance(told, Ended) for told in agent.recorder.told) == (agent.state == "ended")
            # The first turn may have begun before anybody could watch.
            assert agent.turns - sum(isinstance(msg, TaskStarted) for msg in events) in (0, 1)
            assert ended == agent.turns - agent.is_running
        assert not hasattr(self, "manager") or self.manager.dead_letters == ()

    def teardown(self) -> None:
        logging.getLogger("pykka").propagate = True
        if hasattr(self, "manager"):
            report = self.run(self.manager.close())
            if sys.exc_info()[0] is None:  # in the teardown of a failed example these would only hide what failed
                assert (report.timed_out, report.abandoned_tools, report.dead_letters) == ((), 0, 0)
                assert all(reply.done() for reply in self.replies)
                assert self.asks == {}
        self.loop.close()
        self.agents, self.replies = [], []
        del self.manager
        if sys.exc_info()[0] is None:
            self.leaks.close()


def notices(items: list[Any]) -> list[tuple[str, str]]:
    texts = [item.text for item in items if isinstance(item, Message)]
    told = [json.loads(text.splitlines()[1]) for text in texts if text.startswith("<subagent_notification>\n")]
    return [(each["agent_id"], json.dumps(each["status"])) for each in told]


AgentsMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestAgents = pytest.mark.slow(AgentsMachine.TestCase)
