"""What the actor core costs, beside raw pykka in the same run: `python benchmarks/actors.py [--only ROW,...]`.

Every row runs in fresh processes of this interpreter, row after row, round after round; a figure is the median of its
rounds. Memory is what the process holds after garbage and free pages were given back; "less history" subtracts the
bytes of all objects below the threads' recorded items and lines, counted in a sample of the same threads.
"x pykka" is how many times better a figure is than raw pykka's `ThreadingActor` doing the same, in the same run.
Exit status: 0 all measured (targets met or not), 2 a row measured nothing, lost something or counted wrong.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import _lib
from _lib import (
    ROOT,
    Figure,
    Group,
    Settings,
    check,
    micros,
    os_threads,
    per_second,
    percentile,
    rss_bytes,
)

sys.path.insert(0, str(ROOT))

import pykka

from codex_actors import (
    AgentControl,
    CodexThread,
    Config,
    EventStream,
    Interrupt,
    ManagerConfig,
    Prompt,
    ScriptedModel,
    ThreadId,
    ThreadManager,
)
from codex_actors.actors.messages import SendOp
from codex_actors.actors.supervisor import SupervisorActor
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, TextDelta
from codex_actors.protocol.events import AgentMessageDelta, TaskComplete, TurnAborted
from codex_actors.protocol.items import Message, OutputText
from codex_actors.protocol.ops import Submission

CONFIG = Config()
ANSWER = "The answer is forty-two."
BATCH = 100
TURN_EVENTS = [
    "task_started",
    "user_message",
    "item_started",
    "agent_message_delta",
    "item_completed",
    "agent_message",
    "token_count",
    "task_complete",
]
TURN_LINES = ("message:user", "user_message", "turn_context", "message:assistant", "agent_message", "token_count")


def answering() -> ScriptedModel:
    """A model that says `ANSWER` to everything."""
    return ScriptedModel(lambda prompt: ANSWER)


async def start(manager: ThreadManager, count: int) -> list[CodexThread]:
    """Start threads, `BATCH` at a time."""
    threads: list[CodexThread] = []
    while len(threads) < count:
        size = min(BATCH, count - len(threads))
        made = await asyncio.gather(*(manager.start_thread(CONFIG) for _ in range(size)))
        threads += [new.thread for new in made]
    return threads


async def check_listed(manager: ThreadManager, count: int) -> None:
    """Raise unless the manager lists so many threads."""
    listed = len(await manager.list_thread_ids())
    check(listed == count, f"{listed} threads are listed, {count} were started")


# --- raw pykka -------------------------------------------------------------------------------------------------------


class Idle(pykka.ThreadingActor):
    """Answers with what it is asked."""

    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self.handled = 0

    def on_receive(self, message: Any) -> Any:
        """Runs in: the actor's own OS thread."""
        self.handled += 1
        return self.handled if message == "count" else message


class Router(pykka.ThreadingActor):
    """Routes as pykka offers it: `nested` waits for the answer, `forward` answers with the future, `tell` with none."""

    use_daemon_thread = True

    def __init__(self, workers: Sequence[pykka.ActorRef[Idle]]) -> None:
        super().__init__()
        self.workers = dict(enumerate(workers))

    def on_receive(self, message: Any) -> Any:
        """Runs in: the actor's own OS thread."""
        way, worker, payload = message
        if way == "tell":
            return self.workers[worker].tell(payload)
        return self.workers[worker].ask(payload, block=way == "nested")


def handled_by(workers: Sequence[pykka.ActorRef[Idle]]) -> int:
    """How many messages they have handled, this one included."""
    counts: list[Any] = [worker.ask("count") for worker in workers]
    return sum(counts)


def row_pykka(settings: Settings) -> Mapping[str, float]:
    """Idle actors (each with its OS thread), starts, asks."""
    count, asks = (500, 1_000) if settings.quick else (2_000, 5_000)
    refs = [Idle.start() for _ in range(50)]
    before, threads = rss_bytes(), os_threads()
    begun = time.perf_counter()
    refs += [Idle.start() for _ in range(count)]
    rate = per_second(count, begun)
    memory = (rss_bytes() - before) / count / 1024
    check(os_threads() - threads == count, "raw pykka did not start an OS thread for each actor")
    begun = time.perf_counter()
    answers = [refs[0].ask(number) for number in range(asks)]
    ask = micros(asks, begun)
    check(answers == list(range(asks)), "raw pykka gave wrong answers")
    return {"pykka_idle": memory, "pykka_start": rate, "pykka_ask": ask}


def row_pykka_routed(settings: Settings) -> Mapping[str, float]:
    """Client -> supervisor actor -> one of 100 actors (-> back), in each of pykka's ways."""
    count = 2_000 if settings.quick else 10_000
    workers = [Idle.start() for _ in range(100)]
    router = Router.start(workers)
    for way in ("nested", "forward"):
        router.ask((way, 0, "warm"))
    begun = time.perf_counter()
    answers = [router.ask(("nested", number % 100, number)) for number in range(count)]
    nested = micros(count, begun)
    check(answers == list(range(count)), "nested asks gave wrong answers")
    begun = time.perf_counter()
    answers = [router.ask(("forward", number % 100, number)).get() for number in range(count)]
    forward = micros(count, begun)
    check(answers == list(range(count)), "forwarded asks gave wrong answers")
    begun = time.perf_counter()
    replies = [router.ask(("forward", number % 100, number), block=False) for number in range(count)]
    answers = [reply.get().get() for reply in replies]
    flight = per_second(count, begun)
    check(answers == list(range(count)), "asks in flight gave wrong answers")
    handled = handled_by(workers)
    begun = time.perf_counter()
    for number in range(count):
        router.tell(("tell", number % 100, number))
    router.ask(("nested", 0, "barrier"))
    told = handled_by(workers) - handled
    rate = per_second(count, begun)
    check(told == count + 101, f"{told - 101} of {count} routed tells arrived")
    return {"pykka_routed_ask": min(nested, forward), "pykka_routed_flight": flight, "pykka_routed_tell": rate}


# --- memory ----------------------------------------------------------------------------------------------------------


def row_memory(settings: Settings) -> Mapping[str, float]:
    """Idle threads: resident memory behind n and n/2 of them, over the same process with 200."""

    async def measured() -> Mapping[str, float]:
        half = 500 if settings.quick else 5_000
        async with ThreadManager(model=answering()) as manager:
            await start(manager, 200)
            first, threads = rss_bytes(), os_threads()
            await start(manager, half)
            middle = rss_bytes()
            await start(manager, half)
            last, more = rss_bytes(), os_threads() - threads
            await check_listed(manager, 200 + 2 * half)
        total, slope = (last - first) / half / 2048, (last - middle) / half / 1024
        check(total > 0.1 and slope > 0.1, "idle threads took no memory")
        return {"idle": total, "idle_slope": slope, "idle_os_threads": more}

    return _lib.run_on_loop(settings, measured())


async def ten_turns(thread: CodexThread, own: bool) -> EventStream | None:
    """Ten turns with one reader: of the thread's own stream (`next_event()`), or a stream of `events()`, held open."""
    stream = None if own else thread.events()
    for _ in range(10):
        result = await thread.run("What is the answer?")
        seen: list[str] = []
        while not seen or seen[-1] != "task_complete":
            event = await thread.next_event() if stream is None else await stream.next(10.0)
            check(event is not None, "a stream ended before its turn did")
            assert event is not None
            seen.append(event.msg.type)
        check(result.text == ANSWER and seen == TURN_EVENTS, f"a turn gave {seen}")
    return stream


def _row_memory_turns(settings: Settings, name: str, *, own: bool) -> Mapping[str, float]:
    async def measured() -> Mapping[str, float]:
        count = 1_000 if settings.quick else 10_000
        async with ThreadManager(model=answering()) as manager:
            kept = [await ten_turns(thread, own) for thread in await start(manager, 200)]
            first = rss_bytes()
            threads = await start(manager, count)
            for begin in range(0, count, BATCH):
                batch = threads[begin : begin + BATCH]
                kept += await asyncio.gather(*(ten_turns(thread, own) for thread in batch))
            total = (rss_bytes() - first) / count / 1024
            records = [thread._actor.record for thread in threads[:: count // 200]]
            check(all(len(record.lines) >= 60 for record in records), "turns left no lines")
            below = [held for record in records for held in (record.history, record.lines)]
            history = _lib.size_of(below) / len(records) / 1024
        check(history > 1, "turns left no history")
        check(total > history, f"{total:.1f} KiB of memory hold {history:.1f} KiB of history")
        return {name: total - history, f"{name}_history": history}

    return _lib.run_on_loop(settings, measured())


def row_memory_next_event(settings: Settings) -> Mapping[str, float]:
    """Memory behind 10 turns read by `next_event()`: the thread's own stream, read to its end."""
    return _row_memory_turns(settings, "read_own", own=True)


def row_memory_events(settings: Settings) -> Mapping[str, float]:
    """Memory behind 10 turns read by `events()`: that stream held open, the own one full of its newest 64 events."""
    return _row_memory_turns(settings, "read_stream", own=False)


# --- start -----------------------------------------------------------------------------------------------------------


def row_start(settings: Settings) -> Mapping[str, float]:
    """`start_thread`, one after the other and in batches of 100."""

    async def measured() -> Mapping[str, float]:
        count = 2_000 if settings.quick else 10_000
        async with ThreadManager(model=answering()) as manager:
            await start(manager, 500)
            begun = time.perf_counter()
            for _ in range(count):
                await manager.start_thread(CONFIG)
            single = per_second(count, begun)
            begun = time.perf_counter()
            await start(manager, count)
            batched = per_second(count, begun)
            await check_listed(manager, 500 + 2 * count)
        return {"start_single": single, "start_batched": batched}

    return _lib.run_on_loop(settings, measured())


def row_scale(settings: Settings) -> Mapping[str, float]:
    """The mean cost per thread of starting 100,000 against that of starting 1,000, collector off and on."""
    many = 10_000 if settings.quick else 100_000

    async def cost(count: int) -> float:
        async with ThreadManager(model=answering(), config=ManagerConfig(close_timeout_s=60)) as manager:
            gc.collect()
            begun = time.perf_counter()
            await start(manager, count)
            spent = micros(count, begun)
            await check_listed(manager, count)
        return spent

    async def measured() -> Mapping[str, float]:
        figures: dict[str, float] = {}
        await cost(1_000)
        for name in ("off", "on"):
            gc.disable() if name == "off" else gc.enable()
            few = median([await cost(1_000) for _ in range(5)])
            figures |= {f"few_{name}": few, f"many_{name}": await cost(many)}
            figures[f"scale_{name}"] = figures[f"many_{name}"] / few
        return figures

    return _lib.run_on_loop(settings, measured())


# --- routing ---------------------------------------------------------------------------------------------------------


async def _routed(control: AgentControl, ids: Sequence[ThreadId], count: int) -> Mapping[str, float]:
    begun = time.perf_counter()
    answers = [await control.interrupt_agent(ids[number % 100]) for number in range(count)]
    ask = micros(count, begun)
    check(len(set(answers)) == count, "routed asks gave wrong answers")
    begun = time.perf_counter()
    replies = [control.interrupt_agent(ids[number % 100]) for number in range(count)]
    answers = [await reply for reply in replies]
    flight = per_second(count, begun)
    check(len(set(answers)) == count, "routed asks in flight gave wrong answers")
    supervisor, op = pykka.ActorRegistry.get_by_class(SupervisorActor)[0], Interrupt()
    begun = time.perf_counter()
    for number in range(count):
        supervisor.tell(SendOp(ids[number % 100], Submission(id=str(number), op=op)))
    # Behind the tells in the same mailboxes: when these are answered, all of those were handled.
    await asyncio.gather(*(control.interrupt_agent(thread_id) for thread_id in ids))
    return {"routed_ask": ask, "routed_flight": flight, "routed_tell": per_second(count, begun)}


def row_routed(settings: Settings) -> Mapping[str, float]:
    """Client -> supervisor -> one of 100 idle threads -> back: an `interrupt`, which such a thread only answers."""
    count = 2_000 if settings.quick else 10_000

    async def measured() -> Mapping[str, float]:
        async with ThreadManager(model=answering()) as manager:
            ids = [thread.thread_id for thread in await start(manager, 100)]
            await _routed(manager.agent_control(), ids, 200)
            figures = await _routed(manager.agent_control(), ids, count)
            check(not manager.dead_letters, "messages became dead letters")
        return figures

    figures = dict(_lib.run_on_loop(settings, measured()))
    with ThreadManager(model=answering()) as manager:
        thread_id, control = manager.start_thread(CONFIG).get().thread_id, manager.agent_control()
        begun = time.perf_counter()
        answers = {control.interrupt_agent(thread_id).get() for _ in range(count // 5)}
        figures["routed_sync"] = micros(count // 5, begun)
        check(len(answers) == count // 5, "routed asks of another OS thread gave wrong answers")
    return figures


# --- turns -----------------------------------------------------------------------------------------------------------


async def check_events(thread: CodexThread) -> None:
    """One turn: exactly the events of the table, in their order."""
    with thread.events() as stream:
        await thread.run("What is the answer?")
        seen: list[str] = []
        while not seen or seen[-1] != "task_complete":
            event = await stream.next(10.0)
            seen.append("nothing more" if event is None else event.msg.type)
    check(seen == TURN_EVENTS, f"a turn gave {seen}")


def check_lines(home: Path, threads: int, turns: int) -> None:
    """The rollouts hold exactly the lines of the table for each turn, and a meta line and a context item per thread."""
    kinds: Counter[str] = Counter()
    for path in home.glob("sessions/**/*.jsonl"):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            payload = line["payload"]
            kind = payload.get("type", line["type"])
            kinds[f"message:{payload['role']}" if kind == "message" else kind] += 1
    expected = Counter({**dict.fromkeys(TURN_LINES, threads * turns), "session_meta": threads})
    expected["message:user"] += threads  # the environment context
    check(kinds == expected, f"the rollouts hold {dict(kinds)} instead of {dict(expected)}")


async def one_by_one(manager: ThreadManager, threads: int, turns: int) -> float:
    """Microseconds per turn, awaited on the loop, after one turn of each thread that is not timed."""
    begun, spent = 0.0, 0.0
    for thread in await start(manager, threads):
        await check_events(thread)
        begun = time.perf_counter()
        results = [await thread.run("What is the answer?") for _ in range(turns - 1)]
        spent += time.perf_counter() - begun
        check(all(result.text == ANSWER and result.error is None for result in results), "a turn failed")
        check(len({result.turn_id for result in results}) == turns - 1, "turns were shared")
    return spent / threads / (turns - 1) * 1e6


async def at_once(manager: ThreadManager, threads: int, turns: int) -> tuple[float, float]:
    """Turns a second with all threads at once: their first turns, and the median of the later rounds."""
    made, rates = await start(manager, threads), []
    for _ in range(turns):
        gc.collect()
        begun = time.perf_counter()
        results = await asyncio.gather(*(thread.run("What is the answer?") for thread in made))
        rates.append(per_second(threads, begun))
        check(all(result.text == ANSWER for result in results), "a turn failed")
        check(len({result.turn_id for result in results}) == threads, "turns were shared")
    return rates[0], median(rates[1:])


def row_turns(settings: Settings) -> Mapping[str, float]:
    """Turns of a scripted model with one text answer, in memory and with a home under `flush`."""
    threads, turns = (5, 21) if settings.quick else (40, 51)

    async def measured(name: str, home: Path | None) -> Mapping[str, float]:
        async with ThreadManager(home, model=answering()) as manager:
            return {f"turn_{name}": await one_by_one(manager, threads, turns)}

    async def measured_at_once(name: str, home: Path | None) -> Mapping[str, float]:
        async with ThreadManager(home, model=answering()) as manager:
            first, later = await at_once(manager, 1_000, 4)
        return {f"burst_{name}": first, f"burst_{name}_later": later}

    figures = dict(_lib.run_on_loop(settings, measured("memory", None)))
    figures |= _lib.run_on_loop(settings, measured_at_once("memory", None))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as all_at_once:
        figures |= _lib.run_on_loop(settings, measured("flush", Path(one)))
        check_lines(Path(one), threads, turns)
        figures |= _lib.run_on_loop(settings, measured_at_once("flush", Path(all_at_once)))
        check_lines(Path(all_at_once), 1_000, 4)
    return figures


# --- the headline ----------------------------------------------------------------------------------------------------

STREAMING = 1_000
PER_SECOND = 50
SAMPLES = 100
INTERRUPTS_S = 15.0
LAG_S = 0.010
LEAD_S = 1.0
"""All turns begin within this time, before the first delta is due."""


class Ticks:
    """One timer every millisecond wakes all who sleep until then: a timer each would be half of the load."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[asyncio.Future[None]]] = {}

    async def until(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        """Sleep until `loop.time()` is `due_s`, to the millisecond."""
        if due_s > loop.time():
            waiter: asyncio.Future[None] = loop.create_future()
            tick = int(due_s * 1e3) + 1
            waiting = self.waiting.get(tick)
            if waiting is None:
                self.waiting[tick] = waiting = []
                loop.call_at(tick / 1e3, self._wake, tick)
            waiting.append(waiter)
            await waiter

    def _wake(self, tick: int) -> None:
        for waiter in self.waiting.pop(tick):
            if not waiter.done():
                waiter.set_result(None)


class PacedModel:
    """Streams `deltas` numbered deltas, each at its own time from `begin_s` on; the streams' phases are spread."""

    name = "paced"

    def __init__(self) -> None:
        self.begin_s = 0.0
        self.deltas = 0
        self.streams = 0
        self.ticks = Ticks()

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Nothing to open."""
        return nullcontext(self)

    def due(self, loop: asyncio.AbstractEventLoop) -> float:
        """When the next stream's first delta is due."""
        self.streams += 1
        return max(self.begin_s, loop.time()) + self.streams % STREAMING / STREAMING / PER_SECOND

    async def stream(self, prompt: Prompt) -> AsyncIterator[ModelEvent]:
        """One answer."""
        loop = asyncio.get_running_loop()
        due_s = self.due(loop)
        yield ItemAdded(Message(role="assistant"))
        for number in range(self.deltas):
            await self.ticks.until(loop, due_s + number / PER_SECOND)
            yield TextDelta(f"{number} ")
        yield ItemDone(Message(role="assistant", content=(OutputText(text="counted"),)))
        yield Completed(None)

    async def tick(self) -> None:
        """The same waits, and nothing else."""
        loop = asyncio.get_running_loop()
        due_s = self.due(loop)
        for number in range(self.deltas):
            await self.ticks.until(loop, due_s + number / PER_SECOND)


class Reader:
    """Reads all events of a thread; each delta must be the next one of its turn."""

    def __init__(self, thread: CodexThread) -> None:
        self.thread = thread
        self.stream = thread.events()
        self.deltas = 0
        self.last_s = 0.0
        self.completed = asyncio.Event()
        self.aborted: asyncio.Future[float] | None = None
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        """Read until the thread's end."""
        number = 0
        async for event in self.stream:
            msg = event.msg
            if isinstance(msg, AgentMessageDelta):
                check(msg.delta == f"{number} ", f"delta {number} came as {msg.delta!r}")
                number += 1
                self.deltas += 1
            elif isinstance(msg, TaskComplete | TurnAborted):
                number, self.last_s = 0, time.perf_counter()
                self.completed.set()
                if isinstance(msg, TurnAborted) and self.aborted is not None:
                    self.aborted.set_result(self.last_s)
            else:
                check(msg.type not in ("lagged", "stream_overrun", "error"), f"a reader was told {msg}")


async def sample_lag(lags: list[float]) -> None:
    """How late a sleep of 10 ms ends, again and again."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + LAG_S
        await asyncio.sleep(LAG_S)
        lags.append((loop.time() - due_s) * 1e3)


async def _headline(model: PacedModel, readers: list[Reader], seconds: float) -> Mapping[str, float]:
    loop, lags = asyncio.get_running_loop(), list[float]()
    model.deltas, model.begin_s = int(seconds * PER_SECOND), loop.time() + LEAD_S
    replies = [reader.thread.run("count") for reader in readers]
    await asyncio.sleep(model.begin_s - loop.time())
    sampler = asyncio.create_task(sample_lag(lags))
    cpu_s, begun_s = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    cpu = (time.process_time() - cpu_s) / (time.perf_counter() - begun_s) * 100
    sampler.cancel()
    results = [await reply for reply in replies]
    check(all(result.text == "counted" for result in results), "a streamed turn failed")
    await asyncio.gather(*(asyncio.wait_for(reader.completed.wait(), 10) for reader in readers))
    total, expected = sum(reader.deltas for reader in readers), STREAMING * model.deltas
    check(total == expected, f"{total} of {expected} deltas were delivered")
    check(len(lags) > seconds / LAG_S / 10, f"only {len(lags)} samples of the loop's lag")
    last_s = max(reader.last_s for reader in readers) - begun_s - (model.deltas - 1) / PER_SECOND - 1 / PER_SECOND
    return {
        "delivered": total / expected * 100,
        "overtime": max(0.0, last_s * 1e3),
        "lag_p50": percentile(lags, 50),
        "lag_p99": percentile(lags, 99),
        "lag_max": max(lags),
        "cpu": cpu,
    }


async def _interrupts(model: PacedModel, readers: list[Reader], every_s: float) -> Mapping[str, float]:
    """Interrupt one streaming thread after the other; each begins a new turn at once, so that the load stays."""
    loop = asyncio.get_running_loop()
    model.deltas, model.begin_s = sys.maxsize, loop.time() + LEAD_S
    replies = [reader.thread.run("count") for reader in readers]
    await asyncio.sleep(model.begin_s + 0.5 - loop.time())
    before, begun_s, spent = sum(reader.deltas for reader in readers), time.perf_counter(), list[float]()
    for reader in readers[:: STREAMING // SAMPLES][:SAMPLES]:
        await asyncio.sleep(every_s)
        reader.aborted = loop.create_future()
        sent_s = time.perf_counter()
        accepted = reader.thread.submit(Interrupt())
        await asyncio.wait((reader.aborted, reader.task), timeout=10.0, return_when=asyncio.FIRST_COMPLETED)
        check(reader.aborted.done(), f"no turn_aborted within 10 s, of a thread that is {reader.thread.agent_status()}")
        spent.append((reader.aborted.result() - sent_s) * 1e3)
        await accepted
        reader.aborted = None
        replies.append(reader.thread.run("count"))
        if time.perf_counter() - begun_s > INTERRUPTS_S:  # an overloaded loop falls behind further and further
            break
    rate = (sum(reader.deltas for reader in readers) - before) / (time.perf_counter() - begun_s)
    check(len(spent) >= 10, f"only {len(spent)} interrupts in {INTERRUPTS_S:g} s")
    for reply in replies:  # the end of the row cuts the rest
        reply.when_done(reply.succeeded)
    return {
        "interrupt_load": rate / STREAMING / PER_SECOND * 100,
        "interrupt_count": len(spent),
        "interrupt_p50": percentile(spent, 50),
        "interrupt_p99": percentile(spent, 99),
    }


async def _load_alone(seconds: float) -> float:
    model, loop = PacedModel(), asyncio.get_running_loop()
    model.deltas, model.begin_s = int(seconds * PER_SECOND), loop.time() + 0.2
    tasks = [asyncio.create_task(model.tick()) for _ in range(STREAMING)]
    await asyncio.sleep(0.2)
    cpu_s, begun_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*tasks)
    return (time.process_time() - cpu_s) / (time.perf_counter() - begun_s) * 100


def row_streaming(settings: Settings) -> Mapping[str, float]:
    """A reader per thread counts what `events()` brings; loop lag, CPU of the process, interrupts at the same load."""

    async def measured() -> Mapping[str, float]:
        figures = {"cpu_load": await _load_alone(2.0)}
        model = PacedModel()
        config = ManagerConfig(close_timeout_s=30)
        async with ThreadManager(model=model, config=config) as manager:
            made = [await manager.start_thread(Config()) for _ in range(STREAMING)]
            readers = [Reader(new.thread) for new in made]
            figures |= await _headline(model, readers, 5.0 if settings.quick else 20.0)
            figures |= await _interrupts(model, readers, 0.02 if settings.quick else 0.04)
            check(not any(reader.task.done() for reader in readers), "a reader ended early")
        await asyncio.gather(*(reader.task for reader in readers))
        return figures

    return _lib.run_on_loop(settings, measured())


# --- import ----------------------------------------------------------------------------------------------------------


def row_import(settings: Settings) -> Mapping[str, float]:
    """Fresh interpreters, median of 9, less the median start of a bare one."""
    programs = {"import": "import codex_actors", "pykka_import": "import pykka", "bare": "pass"}
    spent: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as bytecode:  # as installed: compiled once, whatever this shell's settings
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = bytecode
        for _ in range(9 + 1):
            for name, program in programs.items():
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, check=True)
                spent[name].append((time.perf_counter() - begun) * 1e3)
    bare = median(spent["bare"][1:])  # the first of each wrote bytecode
    figures = {name: median(spent[name][1:]) - bare for name in ("import", "pykka_import")}
    check(figures["import"] > 1, "the import took no time")
    return figures


# --- the table -------------------------------------------------------------------------------------------------------

GROUPS = (
    Group(
        "pykka",
        row_pykka,
        (
            Figure("pykka_idle", "raw pykka: memory per idle actor (+ 1 OS thread each)", "KiB"),
            Figure("pykka_start", "raw pykka: start", "1/s"),
            Figure("pykka_ask", "raw pykka: ask, one at a time", "us"),
        ),
    ),
    Group(
        "pykka_routed",
        row_pykka_routed,
        (
            Figure("pykka_routed_ask", "raw pykka: routed ask (nested or forwarded: the faster)", "us"),
            Figure("pykka_routed_flight", "raw pykka: routed asks, all in flight", "1/s"),
            Figure("pykka_routed_tell", "raw pykka: routed tells", "1/s"),
        ),
    ),
    Group(
        "memory",
        row_memory,
        (
            Figure("idle", "memory per idle thread (10,000; quick 1,000)", "KiB", at_most=6, versus="pykka_idle"),
            Figure("idle_slope", "  slope from n/2 to n threads", "KiB", versus="pykka_idle"),
            Figure("idle_os_threads", "  OS threads that they added", "", at_most=0),
        ),
        repeats=1,
    ),
    Group(
        "memory_next_event",
        row_memory_next_event,
        (
            Figure("read_own", "10 turns, read by next_event(), less history", "KiB", at_most=12, versus="pykka_idle"),
            Figure("read_own_history", "  the history that was subtracted", "KiB"),
        ),
        repeats=1,
    ),
    Group(
        "memory_events",
        row_memory_events,
        (
            Figure("read_stream", "10 turns, read by events(), less history", "KiB", at_most=12, versus="pykka_idle"),
            Figure("read_stream_history", "  the history that was subtracted", "KiB"),
        ),
        repeats=1,
    ),
    Group(
        "start",
        row_start,
        (
            Figure("start_single", "start_thread, one after the other", "1/s", at_least=10_000, versus="pykka_start"),
            Figure("start_batched", "start_thread, batches of 100", "1/s", at_least=10_000, versus="pykka_start"),
        ),
    ),
    Group(
        "scale",
        row_scale,
        (
            Figure("few_off", "start_thread, mean of 1,000, gc off", "us"),
            Figure("many_off", "start_thread, mean of 100,000 (quick 10,000), gc off", "us"),
            Figure("scale_off", "  growth", "x", at_most=1.5),
            Figure("few_on", "start_thread, mean of 1,000, gc on", "us"),
            Figure("many_on", "start_thread, mean of 100,000 (quick 10,000), gc on", "us"),
            Figure("scale_on", "  growth", "x", at_most=4),
        ),
        repeats=1,
    ),
    Group(
        "routed",
        row_routed,
        (
            Figure("routed_ask", "routed ask, awaited", "us", versus="pykka_routed_ask", ratio_at_least=2),
            Figure(
                "routed_flight", "routed asks, all in flight", "1/s", versus="pykka_routed_flight", ratio_at_least=2
            ),
            Figure("routed_tell", "routed tells", "1/s", versus="pykka_routed_tell", ratio_at_least=2),
            Figure("routed_sync", "routed ask, get() in another OS thread", "us", versus="pykka_routed_ask"),
        ),
    ),
    Group(
        "turns",
        row_turns,
        (
            Figure("turn_memory", "one turn, in memory", "us", at_most=120),
            Figure("turn_flush", "one turn, flush", "us", at_most=250),
            Figure("burst_memory", "1,000 threads' first turns at once, in memory", "turns/s", at_least=8_000),
            Figure("burst_memory_later", "  their later turns", "turns/s", at_least=8_000),
            Figure("burst_flush", "1,000 threads' first turns at once, flush", "turns/s", at_least=3_500),
            Figure("burst_flush_later", "  their later turns", "turns/s", at_least=3_500),
        ),
    ),
    Group(
        "streaming",
        row_streaming,
        (
            Figure("delivered", "1,000 threads x 50 deltas/s, 20 s (quick 5): delivered", "%", at_least=100),
            Figure("overtime", "  the last delta came, behind its time", "ms"),
            Figure("lag_p50", "  loop lag, median", "ms"),
            Figure("lag_p99", "  loop lag, p99", "ms", at_most=20),
            Figure("lag_max", "  loop lag, worst", "ms"),
            Figure("cpu", "  CPU, of one core", "%", at_most=99),
            Figure("cpu_load", "  of that, waking the 1,000 models alone (no runtime)", "%"),
            Figure("interrupt_p50", "interrupt to turn_aborted during that, median", "ms", at_most=5),
            Figure("interrupt_p99", "interrupt to turn_aborted during that, p99", "ms", at_most=25),
            Figure("interrupt_count", "  samples", "", at_least=SAMPLES),
            Figure("interrupt_load", "  deltas delivered meanwhile, of the nominal rate", "%", at_least=90),
        ),
        repeats=1,
    ),
    Group(
        "import",
        row_import,
        (
            Figure("import", "import codex_actors", "ms", at_most=250, versus="pykka_import"),
            Figure("pykka_import", "raw pykka: import pykka", "ms"),
        ),
        repeats=1,
    ),
)


if __name__ == "__main__":
    sys.exit(_lib.main(Path(__file__), __doc__, GROUPS))
