"""The one mistake that every host makes once: to wait with `get()` on the loop that has to answer.

With stock actors such a program hangs. Here it gets an error that names the mistake, at once.
"""

from __future__ import annotations

import asyncio

from codex_actors import Config, ThreadManager
from codex_actors.errors import DeadlockError


async def main() -> None:
    """First the wrong way, then the three right ones."""
    print("The embedded model answers: no network, no key.")
    async with ThreadManager() as manager:
        reply = manager.start_thread(Config())
        try:
            reply.get(timeout=5)
        except DeadlockError as error:
            print(f"{type(error).__name__}: {error}")

        # Nothing is lost: the thread was started, and the same reply can be awaited.
        thread = (await reply).thread
        print(f"await: {(await thread.run('the right way')).text}")

        # A blocking call belongs in an OS thread that is not the loop's.
        result = await asyncio.to_thread(lambda: thread.run("from another OS thread").get())
        print(f"get() elsewhere: {result.text}")

        # What is answered already never blocks, so it may be read anywhere.
        done = thread.run("answered already")
        await done
        print(f"get() of what is done: {done.get().text}")


if __name__ == "__main__":
    asyncio.run(main())
