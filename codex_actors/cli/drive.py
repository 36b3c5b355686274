"""One turn in the foreground: events to the screen, questions to who sits there, Ctrl-C to the turn."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any

from codex_actors import CodexError, CodexThread, EventStream, ExecApproval, Interrupt, Reply, TurnResult
from codex_actors.cli.notes import SHOW_CURSOR, Notes, script_of
from codex_actors.cli.screens import Screen
from codex_actors.protocol.events import ExecApprovalRequest
from codex_actors.protocol.ops import ReviewDecision

INTERRUPTED = 130
LEAVE_S = 2.0
"""How long the second Ctrl-C leaves for the last lines to be written; a third one does not wait."""

ANSWER_MARGIN_S = 0.1
"""We give a question up before the runtime does, so that it is said why before the turn goes on."""

_ANSWERS: dict[str, ReviewDecision] = {"y": "approved", "a": "approved_for_session", "n": "denied", "q": "abort"}
_QUESTION = "[y] yes  [a] always in this thread  [n] no  [q] no, and stop: "


async def drive(thread: CodexThread, prompt: str, screen: Screen, *, asks: bool) -> TurnResult:
    """Give the thread its prompt, and show the turn to its end.

    Where nobody can be asked (`asks` is False), every approval is denied at once.

    Raises:
        CodexError: the thread ended before its turn.
        BrokenPipeError: nobody reads standard output any more.
    """
    requests: asyncio.Queue[ExecApprovalRequest] = asyncio.Queue()
    with thread.events() as events:
        reply = thread.run(prompt)
        result = asyncio.create_task(_result(reply))
        tasks: set[asyncio.Task[Any]] = {
            result,
            asyncio.create_task(_read(events, screen, requests)),
            asyncio.create_task(_answer(thread, requests, screen.notes, asks=asks)),
        }
        try:
            # The other two fail (nobody reads us, the thread is gone) or go on for as long as the turn.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {result}:
                task.result()
            ended = await result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # The end of the turn was told before its result.
        while (event := events.take()) is not None:
            screen.show(event)
    return ended


async def _result(reply: Reply[TurnResult]) -> TurnResult:
    return await reply


async def _read(events: EventStream, screen: Screen, requests: asyncio.Queue[ExecApprovalRequest]) -> None:
    async for event in events:
        screen.show(event)
        if isinstance(event.msg, ExecApprovalRequest):
            requests.put_nowait(event.msg)


# --- approvals ---------------------------------------------------------------------------------------------------------


async def _answer(
    thread: CodexThread, requests: asyncio.Queue[ExecApprovalRequest], notes: Notes, *, asks: bool
) -> None:
    while True:
        request = await requests.get()
        decision: ReviewDecision = "denied"
        if asks:
            decision = await _ask(request, notes)
        else:
            notes.say(f"denied, because nobody can be asked: {script_of(request.command)}", "yellow")
        await thread.submit(ExecApproval(id=request.approval_id, decision=decision))


async def _ask(request: ExecApprovalRequest, notes: Notes) -> ReviewDecision:
    """Ask at the terminal. Who does not answer in time denies, as the runtime does."""
    notes.rest()
    notes.say(f"May this run in {request.cwd}?", "bold yellow")
    notes.say("  " + script_of(request.command).replace("\n", "\n  "), "bold")
    if request.reason:
        notes.say(f"  because: {request.reason}")
    try:
        async with asyncio.timeout(max(0.0, request.timeout_s - ANSWER_MARGIN_S)):
            while True:
                # What was typed before the question is no answer to it.
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
                notes.ask(_QUESTION)
                line = await _line()
                if not line:  # Ctrl-D
                    notes.say("")
                    return "denied"
                if (decision := _ANSWERS.get(line.strip().lower()[:1])) is not None:
                    return decision
    except TimeoutError:
        notes.say(f"\nno answer within {request.timeout_s:g} s: denied", "yellow")
        return "denied"
    except asyncio.CancelledError:
        notes.say("\nthe question is void: the turn has ended", "yellow")
        raise
    finally:
        notes.asked()


async def _line() -> str:
    """What is typed; empty at the end of the input."""
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    came = asyncio.Event()
    loop.add_reader(number, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(number)
    return os.read(number, 4096).decode(errors="replace")


# --- Ctrl-C ------------------------------------------------------------------------------------------------------------


class Interrupts:
    """The first Ctrl-C interrupts the turn, the second leaves within `LEAVE_S`, the third at once.

    A handler of our own, not the loop's: it must work also while something blocks the loop.
    """

    def __init__(self) -> None:
        self.thread: CodexThread | None = None
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._submitting: asyncio.Task[None] | None = None
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        """Runs in: the main OS thread, between any two instructions, so what it writes goes through no buffer."""
        self._count += 1
        with suppress(OSError):
            os.write(2, b"\ninterrupting; Ctrl-C again leaves at once\n" if self._count == 1 else b"\nleaving\n")
        if self._count > 2:
            leave()
        if self._count == 2:
            timer = threading.Timer(LEAVE_S, leave)
            timer.daemon = True
            timer.start()
        with suppress(RuntimeError):  # the loop is closed: what is left ends by itself
            self._loop.call_soon_threadsafe(self._interrupt if self._count == 1 else self._cancel)

    def _interrupt(self) -> None:
        if self.thread is None:
            self._cancel()
        else:
            self._submitting = self._loop.create_task(_interrupt(self.thread))

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _interrupt(thread: CodexThread) -> None:
    with suppress(CodexError):  # it has ended
        await thread.submit(Interrupt())


def leave() -> None:
    """End the process now, with its terminal as it was. What was shown is in its file already."""
    # Not by `sys.stderr`, which is Rich's while something spins.
    if os.isatty(2):
        with suppress(OSError):
            os.write(2, SHOW_CURSOR)
    os._exit(INTERRUPTED)


def run_in_foreground(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """The exit status of `work`, on a loop of its own; 130 where it was left."""
    try:
        return asyncio.run(work())
    except (asyncio.CancelledError, KeyboardInterrupt):
        return INTERRUPTED
