"""What a turn costs that spawns agents and waits for all of them: `python benchmarks/agents.py [--only ROW,...]`.

Every row runs in fresh processes of this interpreter, row after row, round after round; a figure is the median of its
rounds, and each round's is the median of its turns, each the first of a fresh root thread, behind a warm-up. Nothing is
on disk and the model answers at once: what is left is the runtime. The agents of one turn are spawned by one response.
Exit status: 0 all measured (targets met or not), 2 a row measured nothing, lost something or counted wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

import _lib
from _lib import ROOT, Figure, Group, Settings, check

sys.path.insert(0, str(ROOT))

from codex_actors import CodexThread, Config, Prompt, ScriptedModel, ThreadManager
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem
from codex_actors.tools.agents import agent_tools

WARM_UP = 5
MOST = 100
CONFIG = Config(tools=agent_tools(), max_agents=MOST)
CALLS = [FunctionCall(call_id=f"call-{n}", name="spawn_agent", arguments='{"message": "task"}') for n in range(MOST)]


def answer(count: int, prompt: Prompt) -> str | list[ResponseItem]:
    """A root spawns `count` agents, waits for all of them and is done; an agent is done at once."""
    said = prompt.input[1]  # behind the environment
    if isinstance(said, Message) and said.text == "task":
        return "done"
    outputs = [json.loads(str(item.output)) for item in prompt.input if isinstance(item, FunctionCallOutput)]
    if not outputs:
        return list(CALLS[:count])
    if len(outputs) > count:
        return "all done"
    arguments = {"targets": [output["agent_id"] for output in outputs], "mode": "all"}
    return [FunctionCall(call_id="call-wait", name="wait_agent", arguments=json.dumps(arguments))]


async def one_turn(root: CodexThread, count: int) -> float:
    """The milliseconds of a root's turn; checked: every one of its agents completed."""
    begun = time.perf_counter()
    result = await root.run("lead")
    spent = (time.perf_counter() - begun) * 1e3
    outputs = [json.loads(str(item.output)) for item in result.items if isinstance(item, FunctionCallOutput)]
    check(result.text == "all done" and len(outputs) == count + 1, f"a turn said {result.text!r} behind {outputs}")
    agents = {output["agent_id"]: {"completed": "done"} for output in outputs[:-1]}
    check(len(agents) == count, f"{len(agents)} of {count} agents were spawned")
    check(outputs[-1] == {"status": agents, "timed_out": False}, f"the wait gave {outputs[-1]}")
    return spent


def row(count: int, settings: Settings) -> Mapping[str, float]:
    """Turns of fresh roots, one after the other; each root and its agents end before the next begins."""

    async def measured() -> Mapping[str, float]:
        turns, samples = 20 if settings.quick else 100, []
        async with ThreadManager(model=ScriptedModel(partial(answer, count))) as manager:
            control = manager.agent_control()
            for _ in range(WARM_UP + turns):
                root = (await manager.start_thread(CONFIG)).thread
                samples.append(await one_turn(root, count))
                listed = len(await manager.list_thread_ids())
                check(listed == count + 1, f"{listed} threads are listed, {count + 1} were started")
                await control.shutdown_agent(root.thread_id)
                while await manager.list_thread_ids():
                    pass
        samples = samples[WARM_UP:]
        return {f"spawn_{count}": median(samples), f"spawn_{count}_p90": _lib.percentile(samples, 90)}

    return _lib.run_on_loop(settings, measured())


def group(count: int, target_ms: float) -> Group:
    """The row of turns with so many agents."""
    label = f"a turn that spawns {count} and waits for all" if count > 1 else "a turn that spawns 1 and waits for it"
    figures = (
        Figure(f"spawn_{count}", label, "ms", at_most=target_ms),
        Figure(f"spawn_{count}_p90", "  9 of 10 turns take at most", "ms"),
    )
    return Group(f"spawn_{count}", partial(row, count), figures)


GROUPS = (group(1, 1.5), group(4, 3), group(MOST, 60))


if __name__ == "__main__":
    sys.exit(_lib.main(Path(__file__), __doc__, GROUPS))
