"""A host without asyncio: `with`, OS threads of its own, and `get()`.

The manager runs its loop in one daemon OS thread. Any other OS thread may use the manager and its threads.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from codex_actors import CodexThread, Config, Prompt, ScriptedModel, ThreadManager, tool
from codex_actors.errors import TurnFailed
from codex_actors.protocol.events import AgentMessageDelta, TaskComplete
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, ResponseItem


@tool
def letters(word: str) -> int:
    """How many letters a word has."""
    # A sync tool runs in an OS thread of its own, so it may block.
    assert threading.current_thread() is not threading.main_thread()
    return len(word)


def answer(prompt: Prompt) -> str | list[ResponseItem]:
    """What stands in for a model: it calls the tool for a word, then says what came back."""
    last = prompt.input[-1]
    if isinstance(last, FunctionCallOutput):
        return f"{last.output} letters"
    assert isinstance(last, Message)
    if last.text == "fail":
        raise RuntimeError("no answer to that")
    return [FunctionCall(call_id="call_1", name="letters", arguments=f'{{"word": "{last.text}"}}')]


def ask(manager: ThreadManager, word: str) -> str:
    """One thread, one turn. Runs in: an OS thread of the pool."""
    thread = manager.start_thread(Config(tools=(letters,))).get(timeout=5)
    return thread.thread.run(word).get(timeout=5).text or ""


def stream(thread: CodexThread) -> list[str]:
    """The deltas of one turn, as they come: `for` blocks this OS thread until the next event."""
    pieces: list[str] = []
    with thread.events() as events:
        thread.run("streaming")
        for event in events:
            if isinstance(event.msg, AgentMessageDelta):
                pieces.append(event.msg.delta)
            elif isinstance(event.msg, TaskComplete):
                break
    return pieces


def main() -> None:
    """Eight OS threads share a manager; then a stream, and a turn that fails."""
    print("The embedded model answers: no network, no key.")
    words = ["supervisor", "mailbox", "envelope", "thread", "turn", "item", "rollout", "actor"]
    with ThreadManager(model=ScriptedModel(answer, delta_chars=4)) as manager:
        with ThreadPoolExecutor(max_workers=8) as pool:
            answers = list(pool.map(lambda word: ask(manager, word), words))
        for word, text in zip(words, answers, strict=True):
            print(f"{word}: {text}")
        thread = manager.get_thread(manager.list_thread_ids().get()[0]).get()
        print("deltas:", "|".join(stream(thread)))

        # A failed turn is a result, not an exception, until you ask for one.
        result = thread.run("fail").get()
        print(f"status: {result.status}")
        try:
            result.raise_for_error()
        except TurnFailed as error:
            print(f"error: {error.message}")
        print(f"and the thread goes on: {thread.run('again').get().text}")
    print("closed")


if __name__ == "__main__":
    main()
