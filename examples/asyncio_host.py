"""A host on asyncio: the manager lives on the host's loop. Turns at once, a stream, a steer, an interrupt, a tool."""

from __future__ import annotations

import asyncio

from codex_actors import CodexThread, Config, Interrupt, Prompt, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.protocol.events import AgentMessageDelta, TaskComplete
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem

asked = asyncio.Event()
told = asyncio.Event()


@tool
async def ask_operator(question: str) -> str:
    """Ask the operator, and wait for the answer."""
    asked.set()
    await told.wait()
    return f"{question} - Yes."


def answer(prompt: Prompt) -> str | list[ResponseItem]:
    """What stands in for a model: it asks the operator where the user says so."""
    said = [item.text for item in prompt.input if isinstance(item, Message) and item.role == "user"]
    if any(isinstance(item, FunctionCallOutput) for item in prompt.input):
        return f"asked the operator; last heard: {said[-1]}"
    if said[-1] == "May I?":
        return [FunctionCall(call_id="call_1", name="ask_operator", arguments='{"question": "May they?"}')]
    return f"you said: {said[-1]}"


async def many(manager: ThreadManager) -> None:
    """A hundred threads with a turn each, at once: replies fit `asyncio.gather`."""
    news = await asyncio.gather(*(manager.start_thread(Config()) for _ in range(100)))
    results = await asyncio.gather(*(new.thread.run(f"turn {n}") for n, new in enumerate(news)))
    print(f"{len(results)} turns, the last: {results[-1].text}")
    for new in news:
        await manager.remove_thread(new.thread_id)


async def stream(thread: CodexThread) -> None:
    """Events from the moment that `events()` returns."""
    with thread.events() as events:
        await thread.submit(UserInput("stream this"))
        async for event in events:
            match event.msg:
                case AgentMessageDelta(delta=delta):
                    print(f"  delta: {delta!r}")
                case TaskComplete(last_agent_message=text):
                    print(f"  whole: {text!r}")
                    return


async def steer(manager: ThreadManager) -> None:
    """Input that comes while a turn runs joins it, in front of its next model request."""
    thread = (await manager.start_thread(Config(tools=(ask_operator,)))).thread
    first = thread.run("May I?")
    await asked.wait()
    await thread.submit(UserInput("Quickly, please."))  # accepted: it will not be lost
    told.set()
    result = await first
    for item in result.items:
        if isinstance(item, FunctionCallOutput):
            print(f"the tool said: {item.output}")
    print(f"steered: {result.text}")


async def interrupt(model: ScriptedModel, thread: CodexThread) -> None:
    """A turn is cut in the middle of its stream; its caller gets a result all the same."""
    gate = model.hold(after="deltas")  # this model now waits where a slow one would
    reply = thread.run("a long story")
    await gate.wait_reached()
    await thread.submit(Interrupt())
    result = await reply
    print(f"interrupted: {result.status}, text {result.text}")
    gate.open()
    print(f"and on: {(await thread.run('a short one')).text}")


async def main() -> None:
    """All of it, on one loop."""
    print("The embedded model answers: no network, no key.")
    model = ScriptedModel(answer, delta_chars=8)
    async with ThreadManager(model=model) as manager:
        await many(manager)
        thread = (await manager.start_thread(Config())).thread
        await stream(thread)
        await steer(manager)
        await interrupt(model, thread)
    print("closed")


if __name__ == "__main__":
    asyncio.run(main())
