from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from codex_actors import Config, ThreadManager
from codex_actors.testing import no_leaks


@pytest.mark.slow
def test_ten_thousand_cycles_leave_nothing_behind() -> None:
    async def main() -> None:
        async with ThreadManager() as manager:
            config = Config()
            for _ in range(10_000):
                new = await manager.start_thread(config)
                await new.thread.run("x")
                await manager.remove_thread(new.thread_id)
            del new
            assert await manager.list_thread_ids() == []

    with no_leaks():
        asyncio.run(main())


def test_cycles_with_files_leave_nothing_behind(tmp_path: Path) -> None:
    with no_leaks(), ThreadManager(tmp_path) as manager:
        for _ in range(300):
            new = manager.start_thread(Config()).get()
            new.thread.run("x").get(timeout=10)
            manager.remove_thread(new.thread_id).get()
        del new


def test_a_leaked_os_thread_is_named() -> None:
    stop = threading.Event()
    with pytest.raises(AssertionError, match="OS thread left over"), no_leaks(timeout_s=0.05):
        threading.Thread(target=stop.wait, name="left over", daemon=True).start()
    stop.set()


def test_a_leaked_descriptor_is_counted(tmp_path: Path) -> None:
    descriptor = -1
    with pytest.raises(AssertionError, match="1 file descriptors"), no_leaks(timeout_s=0.05):
        descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
