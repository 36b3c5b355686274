from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from codex_actors.actors.unwritten import Kept, Unwritten, unheard
from codex_actors.errors import RolloutUnavailable
from codex_actors.runtime.clock import Clock
from codex_actors.runtime.pump import Pump

PATH = Path("/home/rollout.jsonl")


async def retried_behind(*numbers: int) -> int:
    """The number of the attempt that comes by itself behind these failures."""
    retried: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def retry(_path: Path, number: int, _kept: Kept) -> None:
        retried.set_result(number)

    unwritten = Unwritten(Pump(asyncio.get_running_loop(), Clock()), retry)
    for number in numbers:
        unwritten.take(PATH, number, unheard, RolloutUnavailable(PATH, errno.ENOSPC, 1))
    return await asyncio.wait_for(retried, 10)


def test_an_older_attempt_hides_no_newer_append() -> None:
    assert asyncio.run(retried_behind(1, 2)) == 2
    assert asyncio.run(retried_behind(2, 1)) == 2


async def settled_by(*, attempt: int, behind: int) -> object:
    unwritten = Unwritten(Pump(asyncio.get_running_loop(), Clock()), lambda *_: None)
    unwritten.take(PATH, behind, unheard, RolloutUnavailable(PATH, errno.ENOSPC, 1))
    return unwritten.take(PATH, attempt, unheard, None)


def test_an_older_attempt_settles_a_newer_append() -> None:
    assert asyncio.run(settled_by(attempt=1, behind=5)) == (5, unheard)
