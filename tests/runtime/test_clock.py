from __future__ import annotations

import re
import sys
import threading
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from codex_actors.protocol.ids import ThreadId
from codex_actors.runtime.clock import Clock, SimulatedClock

SOME_DAY_S = 1_767_225_600.0
NEWEST_S = 4_102_444_800.0


class SetClock(Clock):
    set_s = SOME_DAY_S

    def now_s(self) -> float:
        return self.set_s


@given(st.lists(st.floats(SOME_DAY_S, SOME_DAY_S + 5), min_size=2, max_size=50))
def test_ids_sort_as_they_were_made(times: list[float]) -> None:
    clock, ids = SetClock(), []
    for clock.set_s in times:
        ids.append(clock.uuid7())
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_ten_thousand_ids_of_one_moment_sort() -> None:
    clock = SetClock()
    ids = [clock.uuid7() for _ in range(10_000)]
    assert ids == sorted(set(ids))


def test_an_id_is_a_version_seven_uuid_of_its_time() -> None:
    value = UUID(SetClock().uuid7())
    assert value.version == 7
    assert value.variant == "specified in RFC 4122"
    assert value.int >> 80 == int(SOME_DAY_S * 1000)
    assert isinstance(SetClock().uuid7(), ThreadId)


@given(st.floats(0, NEWEST_S))
def test_a_timestamp_is_utc_with_milliseconds(now_s: float) -> None:
    clock = SetClock()
    clock.set_s = now_s
    text = clock.timestamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs(datetime.fromisoformat(text).timestamp() - now_s) < 0.002
    assert clock.timestamp() == text


def test_a_timestamp_follows_the_clock() -> None:
    clock = SimulatedClock(seed=1, start_s=SOME_DAY_S)
    assert clock.timestamp() == "2026-01-01T00:00:00.000Z"
    clock.advance(0.5)
    assert clock.timestamp() == "2026-01-01T00:00:00.500Z"
    clock.advance(86_399.5)
    assert clock.timestamp() == "2026-01-02T00:00:00.000Z"
    assert clock.now() == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_systems_clock_gives_time_and_randomness() -> None:
    clock = Clock()
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert clock.random_bytes(16) != clock.random_bytes(16)
    assert clock.pick(5) == 0


@given(st.integers(), st.integers(1, 50))
def test_one_seed_gives_one_course_of_things(seed: int, count: int) -> None:
    def course() -> list[object]:
        clock = SimulatedClock(seed)
        seen: list[object] = []
        for number in range(count):
            clock.advance(number / 10)
            seen += [clock.uuid7(), clock.pick(number + 1), clock.random_bytes(3), clock.timestamp()]
        return seen

    assert course() == course()


def test_another_seed_gives_other_ids() -> None:
    assert SimulatedClock(1).uuid7() != SimulatedClock(2).uuid7()


@given(st.integers(), st.integers(1, 1_000))
def test_a_pick_is_one_of_those_that_wait(seed: int, ready: int) -> None:
    assert 0 <= SimulatedClock(seed).pick(ready) < ready


def test_ids_of_many_os_threads_are_all_different() -> None:
    clock, made = Clock(), list[str]()

    def work() -> None:
        made.extend([clock.uuid7() for _ in range(5_000)])

    workers = [threading.Thread(target=work) for _ in range(4)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
    finally:
        sys.setswitchinterval(interval_s)
    assert len(set(made)) == len(made) == 20_000
