"""Fork a thread in front of something its user said. The parent's file does not change by a byte."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from codex_actors import CodexThread, Config, Prompt, ScriptedModel, ThreadManager
from codex_actors.protocol.items import Message


def answer(prompt: Prompt) -> str:
    """What stands in for a model: it says what the user has told it so far, without the environment context."""
    said = [item.text for item in prompt.input if isinstance(item, Message) and item.role == "user"]
    return "I know: " + ", ".join(text for text in said if not text.startswith("<environment_context>"))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept_at(thread: CodexThread) -> Path:
    """Where a thread is kept. It has a file from its first turn on."""
    assert thread.rollout_path is not None
    return thread.rollout_path


def main() -> None:
    """A parent with three user messages, a fork before the second, and a parent that goes on."""
    print("The embedded model answers: no network, no key.")
    with tempfile.TemporaryDirectory() as home:
        with ThreadManager(home, model=ScriptedModel(answer)) as manager:
            parent = manager.start_thread(Config()).get().thread
            for text in ("apples", "pears", "plums"):
                parent.run(text).get()
            path = kept_at(parent)
            before = digest(path)
            print(f"parent: {path.name.rpartition('T')[0]}..., {len(path.read_text().splitlines())} lines")

            # 0 is the first user message: the fork keeps what came before "pears".
            fork = manager.fork_thread(1, None, path).get().thread
            print(f"the fork has a file of its own: {kept_at(fork) != path}")
            print(f"fork: {fork.run('cherries').get().text}")
            whole = manager.fork_thread(None, None, parent.thread_id).get().thread
            print(f"a fork of all, by id: {whole.run('figs').get().text}")
            print(f"parent's SHA-256 unchanged: {digest(path) == before}")

        with ThreadManager(home, model=ScriptedModel(answer)) as manager:
            resumed = manager.resume_thread_from_rollout(Config(), path).get()
            print(f"resumed under its own id: {resumed.thread_id == parent.thread_id}")
            print(f"parent: {resumed.thread.run('quinces').get().text}")
            print(f"and now its file has grown: {digest(path) != before}")


if __name__ == "__main__":
    main()
