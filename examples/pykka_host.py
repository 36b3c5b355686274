"""A host of stock pykka actors: one drives a thread, one is told its events, and `stop_all()` closes the manager."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pykka

from codex_actors import CodexThread, Config, ThreadManager, UserInput
from codex_actors.errors import UnsupportedOperation
from codex_actors.protocol.events import Event, TaskComplete
from codex_actors.protocol.status import Ended
from codex_actors.testing import pykka_classes

LoopActor, _ = pykka_classes()


def say(line: str) -> None:
    """Print a whole line at once: actors speak from several OS threads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Tally(LoopActor):  # type: ignore[misc,valid-type]
    """A pykka actor on an event loop instead of an OS thread. Its ref is pykka's: `tell`, `ask`, `proxy`, `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def on_receive(self, message: Any) -> Any:
        """Count a word; asked for None, answer with the counts. Runs in: the loop's OS thread."""
        if message is None:
            return dict(self.count)
        self.count[message] += 1
        return None


class Listener(pykka.ThreadingActor):
    """Is told the thread's events, each as an ordinary pykka message."""

    use_daemon_thread = True

    def __init__(self, tally: pykka.ActorRef[Any]) -> None:
        super().__init__()
        self.tally = tally

    def on_receive(self, message: Any) -> None:
        """Runs in: this actor's own OS thread."""
        match message:
            case Event(msg=TaskComplete(last_agent_message=text)):
                say(f"told: task_complete {text!r}")
            case Ended(reason=reason):
                say(f"told: the thread has ended, {reason}")
        self.tally.tell("ended" if isinstance(message, Ended) else message.msg.type)

    def on_stop(self) -> None:
        """Ask the actor that was told all the while. Runs in: this actor's own OS thread."""
        count: Any = self.tally.ask(None, timeout=5)
        say(f"tally: {count['task_complete']} turns, {count['shutdown_complete']} shutdown, {count['ended']} end")


class Driver(pykka.ThreadingActor):
    """Asks and tells a thread from its handler, where it may block: it has an OS thread of its own."""

    use_daemon_thread = True

    def __init__(self, thread: CodexThread) -> None:
        super().__init__()
        self.thread = thread

    def on_receive(self, message: str) -> str | None:
        """Runs in: this actor's own OS thread."""
        self.thread.submit(UserInput("told, and not waited for"))
        return self.thread.run(message).get(timeout=5).text


def main() -> None:
    """Actors of both kinds, one registry."""
    say("The embedded model answers: no network, no key.")
    tally = Tally.start()
    listener = Listener.start(tally)
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.subscribe(listener).get()
        driver = Driver.start(thread)
        say(f"asked: {driver.ask('asked, and waited for', timeout=5)}")
        say(f"registered: {', '.join(ref.actor_class.__name__ for ref in pykka.ActorRegistry.get_all())}")

        # The newest first: the driver; the manager with its threads; the listener, behind all that it was told.
        pykka.ActorRegistry.stop_all()
        try:
            manager.start_thread(Config())
        except UnsupportedOperation as error:
            say(f"after stop_all: {error}")
    say(f"registered: {len(pykka.ActorRegistry.get_all())}")


if __name__ == "__main__":
    main()
