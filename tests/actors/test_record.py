from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from codex_actors.actors.birth import drop_accepted
from codex_actors.actors.record import WAITING_LINES, Answer, ThreadRecord
from codex_actors.actors.shared import Shared
from codex_actors.config import ManagerConfig
from codex_actors.errors import RolloutError, RolloutUnavailable
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.events import AgentMessage, Event, TokenUsage, UserMessage, Warning
from codex_actors.protocol.history import (
    EventMsgLine,
    InputAccepted,
    ResponseItemLine,
    SessionMeta,
    SessionMetaLine,
    as_rollout_item,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import Message, TextInput, Verbatim
from codex_actors.rollout.owed import Append
from codex_actors.rollout.reader import items_of
from codex_actors.runtime.reply import Reply
from codex_actors.testing import no_leaks

META = SessionMeta(
    id=ThreadId("0193b5b8-0000-7000-8000-000000000001"),
    timestamp="2026-01-01T00:00:00.000Z",
    cwd="/",
    originator="test",
    cli_version="0",
)
LINE = UserMessage(message="hi")


class Desk:
    """A record with what it published and which errors it told."""

    def __init__(self, shared: Shared, path: Path | None) -> None:
        self.shared = shared
        self.published: list[Event] = []
        self.errors: list[tuple[RolloutError, bool]] = []
        self.too_much: list[RolloutUnavailable] = []
        self.is_back = asyncio.Event()
        self.record = ThreadRecord(shared, self, self)
        self.record.path = path
        if path is not None:
            self.record.begin(META)

    def publish(self, event: Event) -> None:
        self.published.append(event)

    def on_kept(self, number: int, error: RolloutError | None) -> None:
        self.record.kept(number, error)

    def on_unwritten(self, error: RolloutError, is_first: bool) -> None:
        self.errors.append((error, is_first))
        if not isinstance(error, RolloutUnavailable):
            self.record.refuse(error)

    def on_too_much(self, error: RolloutUnavailable) -> None:
        self.too_much.append(error)

    def on_patience_lost(self, error: RolloutError) -> None:
        self.record.refuse(error)

    def on_written(self) -> None:
        self.is_back.set()

    def show(self, text: str) -> None:
        self.record.show(Event("s", Warning(message=text)))

    @property
    def shown(self) -> list[str]:
        return [event.msg.message for event in self.published]  # type: ignore[union-attr]

    async def settled(self) -> None:
        """Until all that was sent to the writer so far has come back."""
        async with asyncio.timeout(10):
            reply: Reply[None] = Reply(self.shared.pump, 10)
            self.record.show(Answer(reply, None))
            try:
                await reply
            except RolloutError:
                return


def with_desk(check: Callable[[Desk], Any], path: Path | None, durability: Any = "flush") -> None:
    async def main() -> None:
        config = ManagerConfig(durability=durability, degraded_timeout_s=0.2)
        shared = Shared(asyncio.get_running_loop(), None, ScriptedModel(), config)
        try:
            await check(Desk(shared, path))
        finally:
            await asyncio.to_thread(shared.writer.close, 5.0)
            shared.watchdog.close()
            shared.close_files()

    asyncio.run(main())


@pytest.mark.parametrize("durability", ["flush", "fsync"])
def test_event_is_shown_after_its_line_is_kept(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "rollout.jsonl"

    async def check(desk: Desk) -> None:
        desk.show("before")
        desk.record.add(LINE)
        desk.show("after")
        assert desk.shown == ["before"]
        assert not desk.record.is_written
        await desk.settled()
        assert desk.shown == ["before", "after"]
        assert desk.record.is_written
        assert path.read_text().count("\n") == 2

    with_desk(check, path, durability)


def test_memory_shows_at_once_and_writes_soon(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"

    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        desk.show("after")
        assert desk.shown == ["after"]

    with_desk(check, path, "memory")
    assert path.read_text().count("\n") == 2


def test_record_without_path_shows_at_once() -> None:
    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        desk.show("after")
        assert desk.shown == ["after"]
        assert desk.record.lines == [LINE]

    with_desk(check, None)


def test_effects_keep_their_order_behind_a_line(tmp_path: Path) -> None:
    async def check(desk: Desk) -> None:
        seen: list[str] = []
        for number in range(5):
            desk.record.add(LINE)
            desk.record.show(partial(seen.append, f"call {number}"))
            desk.show(str(number))
        await desk.settled()
        assert desk.shown == ["0", "1", "2", "3", "4"]
        assert seen == [f"call {number}" for number in range(5)]

    with_desk(check, tmp_path / "rollout.jsonl")


def test_unwritable_line_fails_replies_and_keeps_events(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")

    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        reply: Reply[str] = Reply(desk.shared.pump, 10)
        desk.record.show(Answer(reply, "kept"))
        desk.show("waits")
        with pytest.raises(RolloutError):
            await reply
        assert desk.shown == []
        assert [is_first for _, is_first in desk.errors].index(False) == 1
        await desk.settled()
        assert len(desk.errors) >= 2
        assert desk.record.is_degraded
        (tmp_path / "sessions").unlink()
        async with asyncio.timeout(10):
            await desk.is_back.wait()
        assert desk.shown == ["waits"]
        assert not desk.record.is_degraded

    with_desk(check, tmp_path / "sessions" / "rollout.jsonl")


def test_lines_count_before_the_writer_looks_at_them(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("in the way")

    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        await desk.settled()
        for _ in range(WAITING_LINES - 3):
            desk.record.add(LINE)
        await asyncio.sleep(0)
        assert desk.too_much == []
        desk.record.add(LINE)
        await asyncio.sleep(0)
        assert desk.too_much
        assert min(error.waiting for error in desk.too_much) >= WAITING_LINES

    with_desk(check, tmp_path / "sessions" / "rollout.jsonl")


def test_given_up_effects_are_handed_out_once(tmp_path: Path) -> None:
    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        desk.show("waits")
        assert [type(effect) for effect in desk.record.give_up()] == [Event]
        assert desk.record.give_up() == []
        desk.show("at once")
        assert desk.shown == ["at once"]

    with_desk(check, tmp_path / "rollout.jsonl")


def test_unknown_item_gets_a_line_of_its_own_kind() -> None:
    async def check(desk: Desk) -> None:
        item = Verbatim(raw={"type": "hologram"})
        desk.record.add_item(item)
        desk.record.add_item(Message(role="user"), AgentMessage(message="x"), submission_id="s1")
        assert desk.record.lines == [
            ResponseItemLine(payload=item),
            ResponseItemLine(payload=Message(role="user"), submission_id="s1"),
            AgentMessage(message="x"),
        ]
        assert desk.record.history == [item, Message(role="user")]

    with_desk(check, None)


def test_items_for_a_fork_leave_out_accepted_inputs() -> None:
    async def check(desk: Desk) -> None:
        desk.record.add(LINE, InputAccepted(submission_id="s1", items=(TextInput(text="mine"),)))
        assert [item.type for item in drop_accepted(tuple(map(as_rollout_item, desk.record.lines)))] == ["event_msg"]

    with_desk(check, None)


def test_lines_of_a_file_read_back_as_recorded(tmp_path: Path) -> None:
    async def check(desk: Desk) -> None:
        item = Verbatim(raw={"type": "hologram"})
        desk.record.add(LINE, Verbatim(raw={"type": "unknown_line", "payload": 1}))
        desk.record.add_item(item, AgentMessage(message="x"), submission_id="s1")
        assert items_of(desk.record.lines) == [
            SessionMetaLine(payload=META),
            EventMsgLine(payload=LINE),
            Verbatim(raw={"type": "unknown_line", "payload": 1}),
            ResponseItemLine(payload=item, submission_id="s1"),
            EventMsgLine(payload=AgentMessage(message="x")),
        ]

    with_desk(check, tmp_path / "rollout.jsonl")


def test_usage_is_summed_and_none_changes_nothing() -> None:
    async def check(desk: Desk) -> None:
        assert desk.record.count(None) is None
        one = TokenUsage(input_tokens=1, total_tokens=1)
        two = TokenUsage(output_tokens=2, total_tokens=2)
        desk.record.count(one)
        info = desk.record.count(two)
        assert info is not None
        assert (info.total_token_usage, info.last_token_usage) == (one + two, two)
        assert desk.record.count(None) == info

    with_desk(check, None)


def test_failure_of_the_writer_itself_ends_every_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(desk: Desk) -> None:
        other = Desk(desk.shared, tmp_path / "other.jsonl")
        desk.shared.close_files()
        for _ in range(2):
            for each in (desk, other):
                each.record.add(LINE)
            await desk.settled()
            await other.settled()
        assert len(desk.errors) >= 2
        assert "the rollout writer is closed" in str(other.errors[0][0])
        assert list(desk.shared.unwritten.reasons) == [desk.record.path, other.record.path]

    with_desk(check, tmp_path / "rollout.jsonl")
    assert "the rollout writer failed" in caplog.text


def test_files_stay_open_while_the_writer_is_at_work(tmp_path: Path) -> None:
    reached, gate = threading.Event(), threading.Event()

    class SlowPath:
        def __fspath__(self) -> str:
            reached.set()
            assert gate.wait(10)
            return str(tmp_path / "slow.jsonl")

    (tmp_path / "slow.jsonl").touch()

    async def check(desk: Desk) -> None:
        desk.record.add(LINE)
        await desk.settled()
        slow: Any = SlowPath()
        desk.shared.writer.put((Append(slow, "", (LINE,), create=False), 1, desk.record.kept))
        assert await asyncio.to_thread(reached.wait, 10)
        assert not await asyncio.to_thread(desk.shared.writer.close, 0.01)
        desk.shared.close_files()
        gate.set()
        desk.record.add(LINE)
        await desk.settled()
        assert desk.errors == []

    with no_leaks():
        with_desk(check, tmp_path / "rollout.jsonl")


def test_effect_that_raises_fails_its_own_thread_only(tmp_path: Path) -> None:
    async def check(desk: Desk) -> None:
        other = Desk(desk.shared, tmp_path / "other.jsonl")
        for each in (desk, other):
            each.record.add(LINE)
        waiting: Reply[None] = Reply(desk.shared.pump, 10)
        desk.record.show(partial(divmod, 1, 0))
        desk.record.show(Answer(waiting, None))
        other.show("kept")
        with pytest.raises(RolloutError, match="ZeroDivisionError"):
            await waiting
        await other.settled()
        assert other.shown == ["kept"]
        desk.record.add(LINE)
        desk.show("goes on")
        await desk.settled()
        assert desk.shown == ["goes on"]

    with_desk(check, tmp_path / "rollout.jsonl")
