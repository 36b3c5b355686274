from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from codex_actors import (
    AgentStatus,
    CodexThread,
    Config,
    Interrupt,
    NewThread,
    Prompt,
    ScriptedModel,
    Shutdown,
    ThreadId,
    ThreadManager,
    UserInput,
    tool,
)
from codex_actors.errors import AgentDepthLimitReached, AgentLimitReached, ThreadNotFound
from codex_actors.model.scripted import Gate
from codex_actors.protocol.events import ItemStarted
from codex_actors.protocol.history import SubAgentSource
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem
from codex_actors.protocol.status import is_final
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import model_history
from codex_actors.rollout.truncation import is_user_message
from codex_actors.testing import no_leaks
from codex_actors.tools.agents import agent_tools
from codex_actors.tools.tool import ToolContext

T = TypeVar("T")

LIMIT_S = 20.0
TOOLS = agent_tools()
CONFIG = Config(tools=TOOLS)


class Team:
    """What the model of each agent does, by the first thing that the agent was told: its steps, and then `did <task>`.

    A step is an answer, a function of the prompt that gives one, or a gate to wait at.
    """

    def __init__(self, **steps: Sequence[Any]) -> None:
        self.steps = {task: deque(each) for task, each in steps.items()}
        self.prompts: dict[str, list[Prompt]] = defaultdict(list)
        self.model = ScriptedModel(self.answer)

    async def answer(self, prompt: Prompt) -> Any:
        task = next(item.text for item in prompt.input if isinstance(item, Message) and is_user_message(item))
        self.prompts[task].append(prompt)
        steps = self.steps.get(task)
        while steps:
            step = steps.popleft()
            if not isinstance(step, Gate):
                return step(prompt) if callable(step) else step
            await step.pass_through()
        return f"did {task}"

    def id_of(self, task: str) -> ThreadId:
        return self.prompts[task][0].thread_id


def call(name: str, call_id: str = "", **arguments: Any) -> FunctionCall:
    return FunctionCall(call_id=call_id or f"call-{name}", name=name, arguments=json.dumps(arguments))


def spawn(*tasks: str) -> list[FunctionCall]:
    return [call("spawn_agent", f"call-{task}", message=task) for task in tasks]


def outputs(items: Sequence[ResponseItem]) -> list[Any]:
    texts = [str(item.output) for item in items if isinstance(item, FunctionCallOutput)]
    return [json.loads(text) if text.startswith("{") else text for text in texts]


def spawned(prompt: Prompt) -> list[str]:
    return [output["agent_id"] for output in outputs(prompt.input) if "agent_id" in output]


def wait_for(mode: str, timeout_ms: int = 10_000) -> Callable[[Prompt], list[FunctionCall]]:
    return lambda prompt: [call("wait_agent", targets=spawned(prompt), mode=mode, timeout_ms=timeout_ms)]


def to_child(name: str, **arguments: Any) -> Callable[[Prompt], list[FunctionCall]]:
    return lambda prompt: [call(name, target=spawned(prompt)[0], **arguments)]


def notices(items: Sequence[ResponseItem]) -> list[Any]:
    texts = [item.text for item in items if isinstance(item, Message)]
    return [
        json.loads(text.splitlines()[1])["status"] for text in texts if text.startswith("<subagent_notification>\n")
    ]


def history(thread: CodexThread) -> list[ResponseItem]:
    """The items, of which none stands between a call and its output."""
    open_calls: set[str] = set()
    for item in thread._actor.record.history:
        if isinstance(item, FunctionCall):
            open_calls.add(item.call_id)
        elif isinstance(item, FunctionCallOutput):
            open_calls.remove(item.call_id)
        else:
            assert open_calls == set()
    return thread._actor.record.history


def kept(thread: CodexThread) -> list[ResponseItem]:
    assert thread.rollout_path is not None
    return model_history(get_rollout_history(thread.rollout_path).get_rollout_items())


async def settle(manager: ThreadManager) -> list[ThreadId]:
    """Let everything happen that is on its way: the writer first, as what is shown waits for it."""
    assert manager._opened is not None
    for _ in range(5):
        await manager.list_thread_ids()
        assert manager._opened.shared.writer.drain(LIMIT_S)
    return await manager.list_thread_ids()


async def final(thread: CodexThread, word: str) -> AgentStatus:
    return await thread.watch_status().until(lambda status: status.word == word)


async def get(manager: ThreadManager, team: Team, task: str) -> CodexThread:
    return await manager.get_thread(team.id_of(task))


def run(journey: Awaitable[T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await journey

    return asyncio.run(limited())


# --- spawn, wait, result -------------------------------------------------------------------------------------------


def test_wait_for_all_gives_every_result() -> None:
    async def main() -> None:
        team = Team(root=[spawn("a", "b", "c"), wait_for("all")])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            result = await root.run("root")
            ids = [team.id_of(task) for task in "abc"]
        assert result.text == "did root"
        assert outputs(result.items)[-1] == {
            "status": {
                agent_id: {"completed": f"did {task}"} for agent_id, task in zip(ids, ("a", "b", "c"), strict=True)
            },
            "timed_out": False,
        }

    run(main())


def test_wait_for_any_returns_with_the_first() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("slow", "fast"), wait_for("any")], slow=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            result = await root.run("root")
            assert outputs(result.items)[-1] == {
                "status": {team.id_of("slow"): "running", team.id_of("fast"): {"completed": "did fast"}},
                "timed_out": False,
            }
            gate.open()
            await final(await get(manager, team, "slow"), "completed")

    run(main())


def test_wait_that_is_too_long_leaves_agents_working() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("slow", "fast"), wait_for("all", timeout_ms=20)], slow=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            waited = outputs((await root.run("root")).items)[-1]
            assert (waited["timed_out"], waited["status"][team.id_of("slow")]) == (True, "running")
            gate.open()
            assert (await final(await get(manager, team, "slow"), "completed")).message == "did slow"

    run(main())


def test_wait_goes_on_between_two_turns() -> None:
    async def main() -> None:
        first, second = Gate(), Gate()
        team = Team(
            root=[spawn("child"), held := Gate(), to_child("send_input", message="more"), wait_for("any")],
            child=[first, "first", second, "second"],
        )
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await first.wait_reached()
            stream = root.events()
            held.open()
            async for event in stream:
                if isinstance(event.msg, ItemStarted) and "wait_agent" in repr(event.msg.item):
                    break
            await settle(manager)
            first.open()
            await second.wait_reached()
            await settle(manager)
            assert not running.done()
            second.open()
            result = await running
        assert outputs(result.items)[-1]["status"] == {team.id_of("child"): {"completed": "second"}}

    run(main())


def test_roles_give_an_agent_its_config() -> None:
    async def main() -> None:
        tools = agent_tools({"scout": Config(base_instructions="look around")})
        team = Team(root=[[call("spawn_agent", message="child", agent_type="scout")], wait_for("all")])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(base_instructions="lead", tools=tools))).thread
            await root.run("root")
        assert [team.prompts[task][0].instructions for task in ("root", "child")] == ["lead", "look around"]
        assert team.prompts["child"][0].tools == ()

    run(main())


def test_list_names_the_team_without_its_root() -> None:
    async def main() -> None:
        team = Team(
            root=[spawn("child"), wait_for("all"), [call("list_agents")]],
            child=[spawn("grandchild"), wait_for("all")],
        )
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            result = await root.run("root")
        rows = outputs(result.items)[-1]["agents"]
        assert [(row["parent_id"], row["depth"]) for row in rows] == [(root.thread_id, 1), (team.id_of("child"), 2)]
        assert [row["agent_status"] for row in rows] == [{"completed": "did child"}, {"completed": "did grandchild"}]

    run(main())


def test_interrupt_and_close_give_the_previous_status() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(
            root=[
                spawn("child"),
                held := Gate(),
                to_child("interrupt_agent"),
                to_child("close_agent"),
                to_child("send_input", message="too late"),
            ],
            child=[gate],
        )
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await gate.wait_reached()
            held.open()
            seen = outputs((await running).items)
            assert seen[1:] == [
                {"previous_status": "running"},
                {"previous_status": "interrupted"},
                f"agent with id `{team.id_of('child')}` not found",
            ]
            assert await settle(manager) == [root.thread_id]

    run(main())


def test_input_with_interrupt_begins_a_new_turn() -> None:
    async def main() -> None:
        gate = Gate()
        again = to_child("send_input", message="instead", interrupt=True)
        team = Team(root=[spawn("child"), held := Gate(), again, wait_for("all")], child=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await gate.wait_reached()
            held.open()
            waited = outputs((await running).items)[-1]
            child = await get(manager, team, "child")
            said = [item.text for item in history(child) if isinstance(item, Message) and is_user_message(item)]
        assert waited["status"] == {child.thread_id: {"completed": "did child"}}
        assert said == ["child", "instead"]

    run(main())


# --- what a parent is told -----------------------------------------------------------------------------------------


def test_idle_parent_is_told_at_once_and_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child")], child=[gate])
        async with ThreadManager(tmp_path, model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            await root.run("root")
            assert notices(history(root)) == []
            gate.open()
            await final(await get(manager, team, "child"), "completed")
            await settle(manager)
            assert notices(history(root)) == notices(kept(root)) == [{"completed": "did child"}]
            assert len(team.prompts["root"]) == 2  # no turn begins by it
            await root.run("and now?")
        assert notices(team.prompts["root"][-1].input) == [{"completed": "did child"}]

    run(main())


def test_running_parent_is_told_before_its_next_request() -> None:
    async def main() -> None:
        gate = Gate()

        @tool
        async def hold() -> str:
            await gate.pass_through()
            return "held"

        team = Team(root=[spawn("child"), [call("hold")]], child=[finish := Gate()])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=(*TOOLS, hold)))).thread
            running = root.run("root")
            await gate.wait_reached()
            finish.open()
            await final(await get(manager, team, "child"), "completed")
            await settle(manager)
            assert notices(history(root)) == []
            gate.open()
            await running
            assert notices(history(root)) == [{"completed": "did child"}]
        last = team.prompts["root"][-1].input
        assert isinstance(last[-2], FunctionCallOutput)
        assert notices(last[-1:]) == [{"completed": "did child"}]

    run(main())


def test_interrupted_parent_is_told_behind_its_outputs(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()

        @tool
        async def hold() -> str:
            await gate.pass_through()
            return "never"

        team = Team(root=[spawn("child"), [call("hold")]], child=[finish := Gate()])
        async with ThreadManager(tmp_path, model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=(*TOOLS, hold)))).thread
            running = root.run("root")
            await gate.wait_reached()
            finish.open()
            await final(await get(manager, team, "child"), "completed")
            await settle(manager)
            await root.submit(UserInput("steered"))
            await root.submit(Interrupt())
            assert (await running).status == AgentStatus.INTERRUPTED
            await settle(manager)
            assert notices(history(root)) == [{"completed": "did child"}]
            assert kept(root) == history(root)

    run(main())


def test_parent_without_a_turn_has_nothing_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        team = Team()
        async with ThreadManager(tmp_path, model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            source = SubAgentSource(parent_thread_id=root.thread_id, depth=1)
            child_id = await manager.agent_control().spawn_agent(Config(), "child", source=source)
            await final(await manager.get_thread(child_id), "completed")
            await settle(manager)
            assert root.rollout_path is not None
            assert not root.rollout_path.exists()
            await root.run("root")
            assert notices(team.prompts["root"][0].input) == [{"completed": "did child"}]
            await settle(manager)
            assert notices(kept(root)) == [{"completed": "did child"}]

    run(main())


def test_parent_is_told_once_per_finished_turn() -> None:
    async def main() -> None:
        team = Team(root=[spawn("child"), wait_for("all")], child=["one", "two"])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            await root.run("root")
            await (await get(manager, team, "child")).run("again")
            await settle(manager)
            assert notices(history(root)) == [{"completed": "one"}, {"completed": "two"}]
            await manager.agent_control().shutdown_agent(team.id_of("child"))
            await settle(manager)
            assert len(notices(history(root))) == 2

    run(main())


def test_interrupted_child_is_not_reported() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child")], child=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            await root.run("root")
            await gate.wait_reached()
            child = await get(manager, team, "child")
            await child.submit(Interrupt())
            await settle(manager)
            assert child.agent_status() == AgentStatus.INTERRUPTED
            assert notices(history(root)) == []

    run(main())


def test_child_that_is_closed_in_a_turn_is_reported_once() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child"), held := Gate(), to_child("close_agent")], child=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await gate.wait_reached()
            held.open()
            await running
            await settle(manager)
            assert notices(history(root)) == ["shutdown"]
            assert manager.dead_letters == ()

    run(main())


@pytest.mark.parametrize("is_running", [True, False])
def test_crashed_child_is_reported_once(is_running: bool) -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child")], child=[gate] if is_running else [])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            await root.run("root")
            await settle(manager)
            child = await get(manager, team, "child")
            before = notices(history(root))
            child._actor.actor_ref.tell("a foreign message")
            assert (await child.watch_status().ended()).reason == "crashed"
            await settle(manager)
            assert notices(history(root))[len(before) :] == [{"errored": "TypeError: str is no message to a thread"}]
            assert (await root.run("go on")).status.word == "completed"

    run(main())


def test_child_whose_model_fails_is_reported_errored() -> None:
    async def main() -> None:
        team = Team(root=[spawn("child"), wait_for("all")], child=[lambda prompt: 1 / 0])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            waited = outputs((await root.run("root")).items)[-1]
            assert waited["status"] == {team.id_of("child"): {"errored": "ZeroDivisionError: division by zero"}}
            await settle(manager)
            assert notices(history(root)) == [{"errored": "ZeroDivisionError: division by zero"}]

    run(main())


def test_refused_spawn_leaves_no_agent_and_no_notice(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")

    async def main() -> None:
        tools = agent_tools({"kept": Config()})
        team = Team(root=[[call("spawn_agent", message="child", agent_type="kept")], [call("list_agents")]])
        async with ThreadManager(tmp_path, model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=tools, ephemeral=True))).thread
            refusal, listed = outputs((await root.run("root")).items)
            assert "sessions" in refusal
            assert listed == {"agents": []}
            assert await settle(manager) == [root.thread_id]
            assert notices(history(root)) == []
            assert root._actor.control.tree.at_work == set()
            assert manager._opened is not None
            assert manager._opened.shared.turns == set()

    with no_leaks():
        run(main())


# --- fate ----------------------------------------------------------------------------------------------------------


def chain(*gates: Gate) -> Team:
    """A root that waits for its child, which waits for its own; both are held, whichever of them has a gate left."""
    held, leaf = gates
    return Team(
        root=[spawn("child"), wait_for("all")],
        child=[spawn("grandchild"), held, wait_for("all")],
        grandchild=[leaf],
    )


def test_interrupt_of_parent_reaches_its_grandchildren() -> None:
    async def main() -> None:
        held, leaf = Gate(), Gate()
        team = chain(held, leaf)
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await leaf.wait_reached()
            await held.wait_reached()
            held.open()
            await root.submit(Interrupt())
            assert (await running).status == AgentStatus.INTERRUPTED
            for task in ("child", "grandchild"):
                await final(await get(manager, team, task), "interrupted")
            await settle(manager)
            assert root._actor.control.tree.at_work == set()
            assert notices(history(root)) == []

    run(main())


def test_interrupt_passes_through_an_idle_child() -> None:
    async def main() -> None:
        leaf, held = Gate(), Gate()
        team = Team(
            root=[spawn("child"), wait_for("all"), held], child=[spawn("grandchild"), "left it"], grandchild=[leaf]
        )
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await leaf.wait_reached()
            await held.wait_reached()
            await root.submit(Interrupt())
            assert (await running).status == AgentStatus.INTERRUPTED
            await final(await get(manager, team, "grandchild"), "interrupted")
            child = await get(manager, team, "child")
            assert child.agent_status() == AgentStatus.completed("left it")

    run(main())


def test_interrupt_in_a_spawn_cuts_the_newborn() -> None:
    async def main() -> None:
        gate = Gate()
        controls: list[Any] = []

        @tool
        async def hold(context: ToolContext) -> str:
            controls.append(context.control)
            await gate.pass_through()
            return "never"

        team = Team(root=[[call("hold")]])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=(hold,)))).thread
            running = root.run("root")
            await gate.wait_reached()
            spawning = controls[0].spawn_agent(Config(), "newborn")
            interrupting = root.submit(Interrupt())
            child = await manager.get_thread(await spawning)
            await interrupting
            assert (await running).status == AgentStatus.INTERRUPTED
            await final(child, "interrupted")
            await settle(manager)
            assert team.prompts["newborn"] == []
            assert (await child.run("later")).status.word == "completed"

    run(main())


def test_failed_parent_leaves_its_children_working() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child"), lambda prompt: 1 / 0], child=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            assert (await root.run("root")).status.word == "errored"
            await gate.wait_reached()
            gate.open()
            await final(await get(manager, team, "child"), "completed")

    run(main())


@pytest.mark.parametrize("how", ["shutdown", "control", "crash", "release"])
def test_end_of_parent_ends_all_its_agents(how: str, tmp_path: Path) -> None:
    async def main() -> None:
        held, leaf = Gate(), Gate()
        team = chain(held, leaf)
        async with ThreadManager(tmp_path, model=team.model) as manager:
            bystander = (await manager.start_thread(CONFIG)).thread
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await leaf.wait_reached()
            await held.wait_reached()
            watches = [(await get(manager, team, task)).watch_status() for task in ("child", "grandchild")]
            match how:
                case "shutdown":
                    await root.submit(Shutdown())
                case "control":
                    await manager.agent_control().shutdown_agent(root.thread_id)
                case "crash":
                    root._actor.actor_ref.tell("a foreign message")
                case _:
                    leaf.open()
                    held.open()
                    await running
                    await manager.remove_thread(root.thread_id)
            del root, running
            for watch in watches:
                assert (await watch.ended()).reason == "shutdown"
            assert await settle(manager) == [bystander.thread_id]
            assert manager.dead_letters == ()

    with no_leaks():
        run(main())


# --- limits --------------------------------------------------------------------------------------------------------


def test_hundred_spawns_at_once_keep_the_limit() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(**{f"child {number}": [gate] for number in range(100)})
        async with ThreadManager(model=team.model) as manager:
            control, config = manager.agent_control(), Config(max_agents=7)
            spawns = [control.spawn_agent(config, f"child {number}") for number in range(100)]
            made = await asyncio.gather(*spawns, return_exceptions=True)
            refused = [each for each in made if isinstance(each, AgentLimitReached)]
            assert [each for each in made if isinstance(each, ThreadId)] == made[:7]
            assert [(each.max_agents, each.used) for each in refused] == [(7, 7)] * 93
            gate.open()

    run(main())


def test_model_reads_why_its_spawn_was_refused() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("a", "b"), spawn("c"), [call("list_agents")]], a=[gate], b=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=TOOLS, max_agents=2))).thread
            seen = outputs((await root.run("root")).items)
            gate.open()
        assert seen[2].startswith("agent thread limit reached (max 2): 2 at work; wait for one to finish")
        assert len(seen[3]["agents"]) == 2

    run(main())


@pytest.mark.parametrize("how", ["tool", "control", "submit", "run"])
def test_idle_agent_is_refused_input_at_the_limit(how: str) -> None:
    async def main() -> None:
        gate = Gate()
        more = to_child("send_input", message="more")
        team = Team(root=[spawn("idle"), wait_for("all"), spawn("busy"), held := Gate(), more], busy=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=TOOLS, max_agents=1))).thread
            running = root.run("root")
            await gate.wait_reached()
            idle = await get(manager, team, "idle")
            if how == "tool":
                held.open()
                assert outputs((await running).items)[-1].startswith("agent thread limit reached (max 1): 1 at work")
            else:
                ways: dict[str, Callable[[], Awaitable[Any]]] = {
                    "control": lambda: manager.agent_control().send_input(idle.thread_id, "more"),
                    "submit": lambda: idle.submit(UserInput("more")),
                    "run": lambda: idle.run("more"),
                }
                with pytest.raises(AgentLimitReached) as caught:
                    await ways[how]()
                assert (caught.value.max_agents, caught.value.used) == (1, 1)
            assert len(history(idle)) == 3  # the environment, a task, an answer
            gate.open()
            await final(await get(manager, team, "busy"), "completed")
            held.open()
            assert (await idle.run("more")).status.word == "completed"

    run(main())


def test_input_behind_an_interrupt_keeps_the_limit() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(**{task: [gate] for task in ("first", "second", "third")})
        async with ThreadManager(model=team.model) as manager:
            control, config = manager.agent_control(), Config(max_agents=1)
            first = await control.spawn_agent(config, "first")
            thread = await manager.get_thread(first)
            tree = thread._actor.control.tree
            most = 0

            async def look(reply: Any) -> Any:
                nonlocal most
                try:
                    return await reply
                except AgentLimitReached as error:
                    return error
                finally:
                    most = max(most, len(tree.at_work))

            replies: list[Any] = [control.interrupt_agent(first), control.send_input(first, "more")]
            replies += [control.spawn_agent(config, task) for task in ("second", "third")]
            replies.append(thread.submit(UserInput("even more")))
            await asyncio.gather(*map(look, replies))
            assert most == 1
            gate.open()

    run(main())


def test_depth_is_counted_along_the_tree() -> None:
    async def main() -> None:
        names = [f"level {depth}" for depth in range(5)]
        steps = {name: [spawn(below), wait_for("all")] for name, below in itertools.pairwise(names)}
        steps["level 2"] = [spawn("level 3")]
        team = Team(**steps)
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=TOOLS, max_depth=2))).thread
            await root.run("level 0")
            deepest = await get(manager, team, "level 2")
            (refusal,) = outputs(history(deepest))
            assert refusal.startswith(
                "agent depth limit reached (max 2): the child would be at depth 3; solve the task"
            )
            assert len(await settle(manager)) == 3

    run(main())


def test_child_that_a_host_spawns_is_in_its_parents_tree() -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(one=[gate], two=[gate])
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=TOOLS, max_agents=1, max_depth=1))).thread
            source = SubAgentSource(parent_thread_id=root.thread_id, depth=1)
            child = await manager.agent_control().spawn_agent(Config(), "one", source=source)
            with pytest.raises(AgentLimitReached, match="max 1"):
                await manager.agent_control().spawn_agent(Config(), "two", source=source)
            below = SubAgentSource(parent_thread_id=child, depth=1)
            with pytest.raises(AgentDepthLimitReached) as caught:
                await manager.agent_control().spawn_agent(Config(), "two", source=below)
            assert (caught.value.max_depth, caught.value.depth) == (1, 2)
            watch = await manager.agent_control().subscribe_status(child)
            await root.submit(Shutdown())
            assert (await watch.ended()).reason == "shutdown"

    run(main())


def test_finished_agents_of_one_turn_take_no_permits() -> None:
    async def main() -> None:
        cycles: list[Any] = []
        for number in range(200):
            cycles += [spawn(f"child {number}"), lambda prompt: [call("wait_agent", targets=spawned(prompt)[-1:])]]
        team = Team(root=cycles)
        async with ThreadManager(model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=TOOLS, max_agents=1))).thread
            seen = outputs((await root.run("root")).items)
            assert [list(each["status"].values()) for each in seen[1::2]] == [
                [{"completed": f"did child {number}"}] for number in range(200)
            ]

    run(main())


@pytest.mark.slow
def test_ten_thousand_agents_finish_without_a_refusal() -> None:
    async def main() -> None:
        async with ThreadManager(model=ScriptedModel(lambda prompt: "done")) as manager:
            root = (await manager.start_thread(Config(max_agents=4))).thread
            await root.run("root")
            control, source = manager.agent_control(), SubAgentSource(parent_thread_id=root.thread_id, depth=1)

            async def cycle(times: int) -> None:
                for _ in range(times):
                    thread = await manager.get_thread(await control.spawn_agent(Config(), "child", source=source))
                    await thread.watch_status().until(is_final)

            await asyncio.gather(*(cycle(2_500) for _ in range(4)))
            await settle(manager)
            assert notices(root._actor.record.history) == [{"completed": "done"}] * 10_000
            assert root._actor.control.tree.at_work == set()
            await root.submit(Shutdown())
            await root.watch_status().ended()

    async def limited() -> None:
        async with asyncio.timeout(300):
            await main()

    with no_leaks():
        asyncio.run(limited())


# --- resume --------------------------------------------------------------------------------------------------------


async def family(home: Path) -> tuple[Path, Path, Path]:
    """The rollouts of a root, of a child that has finished, and of one that was cut in its turn."""
    gate = Gate()
    team = Team(root=[spawn("done", "cut")], cut=[[call("list_agents")], gate])
    async with ThreadManager(home, model=team.model) as manager:
        root = (await manager.start_thread(CONFIG)).thread
        await root.run("root")
        await gate.wait_reached()
        threads = [root, *[await get(manager, team, task) for task in ("done", "cut")]]
        await final(threads[1], "completed")
        await settle(manager)
        paths = [thread.rollout_path for thread in threads]
    root_path, done, cut = [path for path in paths if path is not None]
    return root_path, done, cut


def test_status_of_agents_is_restored_at_resume(tmp_path: Path) -> None:
    async def main() -> None:
        paths = await family(tmp_path)
        async with ThreadManager(tmp_path, model=Team().model) as manager:
            threads = [(await manager.resume_thread_from_rollout(CONFIG, path)).thread for path in paths]
            assert [thread.agent_status() for thread in threads] == [
                AgentStatus.completed("did root"),
                AgentStatus.completed("did done"),
                AgentStatus.INTERRUPTED,
            ]

    run(main())


def test_turn_cut_behind_a_call_is_not_restored_completed(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()

        @tool
        async def hold() -> str:
            await gate.pass_through()
            return "never"

        said = Message.model_validate({"role": "assistant", "content": [{"type": "output_text", "text": "one moment"}]})
        team = Team(root=[[call("hold"), said]])
        async with ThreadManager(tmp_path / "home", model=team.model) as manager:
            root = (await manager.start_thread(Config(tools=(hold,)))).thread
            running = root.run("root")
            await gate.wait_reached()
            await settle(manager)
            assert root.rollout_path is not None
            lines = root.rollout_path.read_bytes()  # what a `kill -9` would leave behind now
            await root.submit(Interrupt())
            await running
            killed = tmp_path / root.rollout_path.name
            killed.write_bytes(lines)
        async with ThreadManager(tmp_path / "other", model=team.model) as manager:
            again = await manager.resume_thread_from_rollout(Config(), killed)
            assert again.thread.agent_status() == AgentStatus.INTERRUPTED

    run(main())


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2)])
def test_resumed_family_is_one_tree_again(order: tuple[int, ...], tmp_path: Path) -> None:
    async def main() -> None:
        paths = await family(tmp_path)
        gate = Gate()
        team = Team(root=[[call("list_agents")]], done=[gate], other=[gate])
        config = Config(tools=TOOLS, max_agents=1)
        async with ThreadManager(tmp_path, model=team.model) as manager:
            new: dict[int, NewThread] = {}
            for index in order:
                new[index] = await manager.resume_thread_from_rollout(config, paths[index])
            root, done, cut = (new[index].thread for index in range(3))
            result = await root.run("who is there?")
            assert {row["agent_id"] for row in outputs(result.items)[-1]["agents"]} == {done.thread_id, cut.thread_id}
            await manager.agent_control().send_input(done.thread_id, "more")
            await gate.wait_reached()
            with pytest.raises(AgentLimitReached, match="max 1"):
                await manager.agent_control().send_input(cut.thread_id, "more")
            gate.open()
            await final(done, "completed")
            await settle(manager)
            assert notices(history(root))[-1] == {"completed": "did done"}
            watches = [done.watch_status(), cut.watch_status()]
            await root.submit(Shutdown())
            for watch in watches:
                assert (await watch.ended()).reason == "shutdown"

    run(main())


def test_family_resumed_at_once_is_one_tree(tmp_path: Path) -> None:
    async def main() -> None:
        paths = await family(tmp_path)
        async with ThreadManager(tmp_path, model=Team().model) as manager:
            resumes = [manager.resume_thread_from_rollout(CONFIG, path) for path in reversed(paths)]
            new = await asyncio.gather(*resumes)
            trees = {id(each.thread._actor.control.tree) for each in new}
            assert len(trees) == 1
            assert len(new[0].thread._actor.control.tree.members()) == 2

    run(main())


def test_refused_child_draws_nobody_into_its_parents_tree(tmp_path: Path) -> None:
    async def main() -> None:
        path, *_ = await family(tmp_path)
        async with ThreadManager(tmp_path, model=Team().model) as manager:
            control = manager.agent_control()
            await control.spawn_agent(Config(), "a host's own")
            absent = get_rollout_history(path).conversation_id  # type: ignore[union-attr]
            with pytest.raises(ThreadNotFound):
                await control.spawn_agent(Config(), "x", source=SubAgentSource(parent_thread_id=absent, depth=1))
            root = (await manager.resume_thread_from_rollout(CONFIG, path)).thread
            assert root._actor.control.tree.members() == []
            assert len(await control.list_agents()) == 1

    run(main())


def test_resumed_agents_take_no_permits(tmp_path: Path) -> None:
    async def main() -> None:
        paths = await family(tmp_path)
        gate = Gate()
        team = Team(fresh=[gate], second=[gate])
        async with ThreadManager(tmp_path, model=team.model) as manager:
            root = (await manager.resume_thread_from_rollout(Config(tools=TOOLS, max_agents=1), paths[0])).thread
            source = SubAgentSource(parent_thread_id=root.thread_id, depth=1)
            replies: list[Any] = [manager.resume_thread_with_history(CONFIG, get_rollout_history(p)) for p in paths[1:]]
            replies.append(manager.agent_control().spawn_agent(Config(), "fresh", source=source))
            await asyncio.gather(*replies)
            assert len(root._actor.control.tree.members()) == 3
            with pytest.raises(AgentLimitReached):
                await manager.agent_control().spawn_agent(Config(), "second", source=source)
            gate.open()

    run(main())


def test_resumed_parent_keeps_outputs_behind_their_calls(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        team = Team(root=[spawn("child"), wait_for("all")], child=[gate])
        async with ThreadManager(tmp_path / "home", model=team.model) as manager:
            root = (await manager.start_thread(CONFIG)).thread
            running = root.run("root")
            await gate.wait_reached()
            await settle(manager)
            child = await get(manager, team, "child")
            paths = [thread.rollout_path for thread in (root, child)]
            lines = {path.name: path.read_bytes() for path in paths if path is not None}  # as `kill -9` leaves them
            await root.submit(Interrupt())
            await running
        for name, text in lines.items():
            (tmp_path / name).write_bytes(text)
        async with ThreadManager(tmp_path / "other", model=Team().model) as manager:
            root, child = [(await manager.resume_thread_from_rollout(CONFIG, tmp_path / name)).thread for name in lines]
            await child.run("once more")
            await settle(manager)
            assert notices(history(root)) == [{"completed": "did child"}]
            assert kept(root) == history(root)

    run(main())
