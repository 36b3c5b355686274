"""What `turns.py` measures of each client: turns one by one, many at once, a flood, an interrupt, many that wait."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

import _clients
import aiohttp
from _clients import MODEL, Begin, Turn
from _lib import Settings, check, os_threads, percentile, rss_bytes

from codex_actors import Config, Interrupt
from codex_actors.protocol.events import AgentMessageDelta, TurnAborted

PER_THREAD = 20
"""Turns of a conversation, behind its first, which is not timed: so its history stays short."""
THREADS = 100
EACH = 5
DELTAS = 20_000
WAITING = 1_000
LAG_S = 0.005

Names = tuple[str, str]


async def timed(turn: Turn) -> float:
    """The milliseconds of a turn."""
    begun = time.perf_counter()
    await turn()
    return (time.perf_counter() - begun) * 1e3


async def one_by_one(begins: tuple[Begin, Begin], names: Names, settings: Settings) -> dict[str, float]:
    """One turn at a time; the two take turns, a conversation each."""
    samples: tuple[list[float], list[float]] = ([], [])
    ratios = []
    for _ in range(3 if settings.quick else 15):
        medians = []
        for begin, seen in zip(begins, samples, strict=True):
            turn = await begin()
            await turn()
            spent = [await timed(turn) for _ in range(PER_THREAD)]
            seen += spent
            medians.append(median(spent))
        ratios.append(medians[0] / medians[1])
    figures = {f"{names[0]}_turn_ratio": median(ratios)}
    for name, seen in zip(names, samples, strict=True):
        figures |= {f"{name}_turn_min": min(seen), f"{name}_turn": median(seen)}
    return figures


Work = Callable[[], Awaitable[Any]]


async def spent_by(prepare: Callable[[], Awaitable[Work]]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process, of the work that `prepare` makes ready."""
    work = await prepare()
    gc.collect()  # garbage of the work before
    cpu_s, begun = time.process_time(), time.perf_counter()
    await work()
    return time.perf_counter() - begun, time.process_time() - cpu_s


async def in_turns(
    prepares: tuple[Callable[[], Awaitable[Work]], ...], rounds: int
) -> tuple[float, list[tuple[float, float]]]:
    """Both `rounds` times, in turns: the median of their ratios, and the seconds and CPU seconds of each's median."""
    samples = [[await spent_by(prepare) for prepare in prepares] for _ in range(rounds)]
    ratio = median(first[0] / second[0] for first, second in samples)
    spent = [(median(s for s, _ in one), median(cpu_s for _, cpu_s in one)) for one in zip(*samples, strict=True)]
    return ratio, spent


async def at_once(begins: tuple[Begin, Begin], names: Names, settings: Settings) -> dict[str, float]:
    """`THREADS` conversations at once, `EACH` turns of each, behind one that is not timed."""

    async def several(turn: Turn) -> None:
        for _ in range(EACH):
            await turn()

    async def warm(begin: Begin) -> Work:
        turns = [await begin() for _ in range(THREADS)]
        await asyncio.gather(*(turn() for turn in turns))
        return lambda: asyncio.gather(*map(several, turns))

    works = tuple(partial(warm, begin) for begin in begins)
    ratio, spent = await in_turns(works, 1 if settings.quick else 5)
    figures = {f"{names[0]}_rate_ratio": ratio}
    for name, (seconds, cpu_s) in zip(names, spent, strict=True):
        figures |= {f"{name}_rate": THREADS * EACH / seconds, f"{name}_cpu": cpu_s / THREADS / EACH * 1e3}
    return figures


async def flood(begins: tuple[Begin, Begin], names: Names, settings: Settings) -> dict[str, float]:
    """`DELTAS` deltas in one turn, to one reader; each of them is counted."""
    await (await begins[0]())()  # the server renders the answer once

    async def ready(begin: Begin) -> Work:
        turn = await begin()

        async def counted() -> None:
            deltas = await turn()
            check(deltas == DELTAS, f"{deltas:,} of {DELTAS:,} deltas came")

        return counted

    works = tuple(partial(ready, begin) for begin in begins)
    ratio, spent = await in_turns(works, 1 if settings.quick else 5)
    figures = {f"{names[0]}_flood_ratio": ratio}
    for name, (seconds, cpu_s) in zip(names, spent, strict=True):
        figures |= {f"{name}_flood": DELTAS / seconds, f"{name}_flood_cpu": cpu_s}
    return figures


Measure = Callable[[tuple[Begin, Begin], Names, Settings], Awaitable[dict[str, float]]]


async def interrupted(threads: Any) -> float:
    """Milliseconds from `submit(Interrupt())` in the middle of a stream to the event `turn_aborted`."""
    thread = (await threads.start_thread(Config(model=MODEL))).thread
    with thread.events() as stream:
        reply = thread.run("x [[slow:30]]")
        while type((await stream.next(10.0)).msg) is not AgentMessageDelta:
            pass
        begun = time.perf_counter()
        accepted = thread.submit(Interrupt())
        while type((await stream.next(10.0)).msg) is not TurnAborted:
            pass
        spent = (time.perf_counter() - begun) * 1e3
    await accepted
    check((await reply).aborted == "interrupted", "a turn was not interrupted")
    return spent


async def cancelled(session: aiohttp.ClientSession, base_url: str, body: bytes) -> float:
    """Milliseconds from the cancellation of a task that reads a stream to its end."""
    begun = asyncio.Event()
    task = asyncio.create_task(_clients.call(session, base_url, body, begun.set))
    await asyncio.wait_for(begun.wait(), 10.0)
    sent = time.perf_counter()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return (time.perf_counter() - sent) * 1e3


async def sample_lag(lags: list[float]) -> None:
    """How late the loop comes round, in milliseconds, until this is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + LAG_S
        await asyncio.sleep(LAG_S)
        lags.append((loop.time() - due_s) * 1e3)


async def requests(session: aiohttp.ClientSession, base_url: str) -> int:
    """How many requests the server has got; this is one of them."""
    async with session.get(f"{base_url.removesuffix('/v1')}/__stats") as response:
        return int((await response.json())["requests"])


async def waiting(begin: Begin, base_url: str) -> dict[str, float]:
    """`WAITING` turns at once while the server has said half: memory in a first round, the loop's lag in a second."""
    await asyncio.gather(*[(await begin())() for _ in range(20)])
    async with aiohttp.ClientSession() as session:
        known = await requests(session, base_url)
        before, threads = rss_bytes(), os_threads()
        turns = [await begin() for _ in range(WAITING)]
        replies = [asyncio.ensure_future(turn()) for turn in turns]
        for polls in range(1, 100):
            await asyncio.sleep(0.1)
            if await requests(session, base_url) - known - polls == WAITING:
                break
    await asyncio.sleep(0.5)
    check(not any(reply.done() for reply in replies), "the server did not keep them waiting")
    figures = {"kib": (rss_bytes() - before) / WAITING / 1024, "os_threads": os_threads() - threads}
    await asyncio.gather(*replies)
    lags: list[float] = []
    sampler = asyncio.create_task(sample_lag(lags))
    cpu_s = time.process_time()
    await asyncio.gather(*(turn() for turn in turns))
    sampler.cancel()
    figures["cpu"] = (time.process_time() - cpu_s) / WAITING * 1e3
    return figures | {"lag": percentile(lags, 99), "lag_max": max(lags)}
