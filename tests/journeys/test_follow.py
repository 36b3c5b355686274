from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codex_actors import Config, ThreadManager
from codex_actors.errors import ReplyTimeout, RolloutError, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.history import EventMsgLine, RolloutItem, SessionMetaLine

WAIT_S = 20.0


def kept(manager: ThreadManager) -> Any:
    thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
    thread.run("one").get(timeout=WAIT_S)
    return thread


def message(line: RolloutItem | None) -> str | None:
    return getattr(line.payload, "message", None) if isinstance(line, EventMsgLine) else None


def snapshot(home: Path) -> list[tuple[str, int, int]]:
    files = [(path, path.stat()) for path in sorted(home.rglob("*"))]
    return [(str(path), stat.st_ino, stat.st_mtime_ns) for path, stat in files]


def test_lines_of_another_manager_come_live(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        thread = kept(first)
        stream = second.follow(thread.rollout_path).get(timeout=WAIT_S)
        for text in ("two", "three"):
            thread.run(text).get(timeout=WAIT_S)
            assert next(line for line in stream if message(line) == f"echo: {text}")


def test_follow_from_the_start_by_id(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        thread = kept(first)
        with second.follow(thread.thread_id, from_start=True).get(timeout=WAIT_S) as stream:
            assert isinstance(stream.next(WAIT_S).get(), SessionMetaLine)
            assert next(line for line in stream if message(line) == "echo: one")
            assert stream.path == thread.rollout_path


def test_a_reader_that_gives_up_loses_nothing(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = kept(manager)
        stream = manager.follow(thread.rollout_path).get(timeout=WAIT_S)
        with pytest.raises(ReplyTimeout):
            stream.next(0.001).get()
        thread.run("two").get(timeout=WAIT_S)
        assert message(stream.next(WAIT_S).get()) is None
        assert [message(stream.next(WAIT_S).get()) for _ in range(1)] == ["two"]


def test_follow_writes_nothing(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        path = kept(manager).rollout_path
    before = snapshot(tmp_path)
    with ThreadManager(tmp_path) as manager:
        stream = manager.follow(path, from_start=True).get(timeout=WAIT_S)
        assert stream.next(WAIT_S).get() is not None
    assert snapshot(tmp_path) == before


def test_a_take_over_is_followed_through(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as first, ThreadManager(tmp_path) as second:
        path = kept(first).rollout_path
        stream = second.follow(path).get(timeout=WAIT_S)
        taken = second.resume_thread_from_rollout(Config(), path, take_over=True).get(timeout=WAIT_S).thread
        taken.run("two").get(timeout=WAIT_S)
        assert next(line for line in stream if message(line) == "echo: two")


def test_async_reader_ends_with_its_manager(tmp_path: Path) -> None:
    async def main() -> list[str | None]:
        async with ThreadManager(tmp_path) as manager:
            thread = (await manager.start_thread(Config())).thread
            await thread.run("one")
            stream = await manager.follow(thread.thread_id, from_start=True)

            async def read() -> list[str | None]:
                return [message(line) async for line in stream]

            reading = asyncio.create_task(read())
            await thread.run("two")
        return await asyncio.wait_for(reading, WAIT_S)

    assert set(asyncio.run(main())) <= {None, "one", "two", "echo: one", "echo: two"}


def test_close_ends_a_reader_that_waits(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        stream = manager.follow(kept(manager).rollout_path).get(timeout=WAIT_S)
        waiting = stream.next(WAIT_S)
        stream.close()
        assert waiting.get() is None
        assert list(stream) == []


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        with pytest.raises(RolloutError, match="cannot follow"):
            manager.follow(tmp_path / "missing.jsonl").get(timeout=WAIT_S)
        with pytest.raises(ThreadNotFound):
            manager.follow("01a208d8-0411-7110-98ad-11c64cb8e715").get(timeout=WAIT_S)
    with pytest.raises(UnsupportedOperation):
        manager.follow(tmp_path / "missing.jsonl")
