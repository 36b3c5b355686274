from __future__ import annotations

import asyncio

from codex_actors.testing import no_leaks
from codex_actors.tools.mcp_process import LINE_CHARS, TAIL_LINES, Tail, end_group


def words_of(written: bytes, env: dict[str, str] | None = None) -> list[str]:
    """What is kept of a stderr to which this was written."""

    async def main() -> str:
        tail = Tail("test", env or {})
        transport, sink = await tail.open(asyncio.get_running_loop())
        try:
            with sink:
                sink.buffer.write(written)
            return await tail.words()
        finally:
            transport.close()

    with no_leaks():
        return asyncio.run(main()).splitlines()


def test_process_that_said_nothing_has_no_words() -> None:
    assert words_of(b"\n  \n") == []


def test_last_lines_are_kept_and_cut() -> None:
    first, *lines = words_of(b"".join(b"%d\n" % n for n in range(100)) + b"x" * 1_000 + b"\n\xff end")
    assert first == "; it said last:"
    assert len(lines) == TAIL_LINES
    assert lines[-3:] == ["99", "x" * LINE_CHARS + "…", "\ufffd end"]


def test_line_without_an_end_is_no_memory_leak() -> None:
    async def main() -> int:
        tail = Tail("test", {})
        for _ in range(1_000):
            tail.data_received(b"x" * 4_096)
        return len(tail._rest)

    assert asyncio.run(main()) <= 1 << 16


def test_values_of_the_environment_are_left_out() -> None:
    env = {"KEY": "-----BEGIN\nabcdefgh\n-----END", "TOKEN": "sekret-123", "LONGER": "sekret-123-more", "DEBUG": "1"}
    said = b"key abcdefgh, sekret-123-more and sekret-123; level 1\n"
    assert words_of(said, env)[1:] == ["key ***, *** and ***; level 1"]


def test_end_of_a_group_that_is_gone_is_quick() -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec("true", start_new_session=True)
        await child.wait()
        await end_group(child.pid)

    with no_leaks():
        asyncio.run(main())
