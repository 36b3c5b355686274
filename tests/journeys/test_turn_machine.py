from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from codex_actors import Config, Interrupt, ManagerConfig, Reply, ScriptedModel, ThreadManager, tool
from codex_actors.compaction import COMPACT_PROMPT, SUMMARY_PREFIX
from codex_actors.errors import ContextWindowExceeded, ExpectedTurnMismatch, NoActiveTurn, StreamError
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, Prompt, TextDelta
from codex_actors.protocol.events import (
    Error,
    Event,
    ExecApprovalRequest,
    TaskComplete,
    TaskStarted,
    ThreadRolledBack,
    TokenUsage,
    TurnAborted,
    Warning,
)
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, Message, OutputText, ResponseItem
from codex_actors.protocol.ops import Compact, ExecApproval, OverrideTurnContext, ThreadRollback, UserTurn
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.replay import close_open_calls, model_history, pending_inputs
from codex_actors.rollout.truncation import is_user_message
from codex_actors.tools.tool import ToolContext
from codex_actors.turn import TurnResult

T = TypeVar("T")

LIMIT_S = 10
LIMIT_TOKENS = 1_000_000
APPROVAL_S = 1_000.0
FOREVER_S = 1e9
MOST_ROUNDS = 200
"""Of the loop, until a step has had all its effects."""

CUT = "aborted by user"
COMPACT = ("user", COMPACT_PROMPT)

KINDS = st.sampled_from(["ask", "ask", "ask_alone", "quick"])
COMMANDS = st.sampled_from("abcd")
CALLS = st.lists(st.tuples(KINDS, COMMANDS), min_size=1, max_size=4)
DECISIONS = st.sampled_from(["approved", "approved", "approved_for_session", "denied", "denied", "abort"])
INDEXES = st.integers(0, 3)
STEPS = st.sampled_from(["say", "complete", "fail"])
OVERTAKING = st.sampled_from(["interrupt", "compact", "input"])
MODELS = st.sampled_from(["small", "large"])

Act = Callable[["TurnMachine"], None]
MODEL_ACTS = st.one_of(
    st.builds(methodcaller, st.just("call"), CALLS, st.sampled_from([True, False, False, None])),
    st.builds(methodcaller, st.just("call"), CALLS, st.just(False)),
    st.builds(methodcaller, st.just("say"), st.booleans()),
    st.builds(methodcaller, st.just("complete"), st.booleans()),
    st.builds(methodcaller, st.just("fail"), st.booleans()),
)
ANSWERS = st.one_of(
    *[st.builds(methodcaller, st.just("answer_request"), INDEXES, DECISIONS)] * 4,
    st.just(methodcaller("let_requests_time_out")),
)
CUTS = st.one_of(
    st.just(methodcaller("interrupt")),
    st.just(methodcaller("compact")),
    st.builds(methodcaller, st.just("cut_what_was_just_told"), STEPS, OVERTAKING),
)
BESIDE = st.one_of(
    st.builds(methodcaller, st.just("override"), MODELS, st.booleans()),
    st.builds(methodcaller, st.just("steer"), st.booleans()),
    st.builds(methodcaller, st.just("roll_back"), st.integers(1, 2)),
    st.builds(methodcaller, st.just("answer_no_open_request"), INDEXES, DECISIONS),
)
OTHER_THREADS = st.one_of(
    st.just(methodcaller("reopen")),
    st.builds(methodcaller, st.just("fork"), st.none() | INDEXES),
    st.just(methodcaller("resume_what_a_kill_would_leave")),
)

Token = tuple[str, ...]
"""One item of the history, as simple as can be."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time can be put forward; the writer's OS thread needs the rest of it to be real."""

    ahead_s = 0.0

    def time(self) -> float:
        return time.monotonic() + self.ahead_s


class Desk:
    """Where each request of the model lies until a rule answers it."""

    def __init__(self) -> None:
        self.prompt: Prompt | None = None
        self.events: asyncio.Queue[Any] | None = None
        self.requests = 0

    async def answer(self, prompt: Prompt) -> Any:
        check_pairs(prompt.input)
        events: asyncio.Queue[Any] = asyncio.Queue()
        self.prompt, self.events = prompt, events
        self.requests += 1
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            yield event

    def says(self, *events: Any) -> None:
        assert self.events is not None
        for event in events:
            self.events.put_nowait(event)


@tool(read_only=True)
async def ask(context: ToolContext, command: str) -> str:
    return await context.ask_approval([command])


@tool
async def ask_alone(context: ToolContext, command: str) -> str:
    return await context.ask_approval([command])


@tool(read_only=True)
async def quick(command: str) -> str:
    return command


class TurnMachine(RuleBasedStateMachine):
    """One thread, and beside it a model of what its history must be."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.home = TemporaryDirectory()
        self.desk = Desk()
        self.config = Config(model="small", tools=(ask, ask_alone, quick), auto_compact_token_limit=LIMIT_TOKENS)
        self.seen: list[Event] = []
        self.count = 0
        # The model: what the history is, what waits, and where the turn stands.
        self.history: list[Token] = []
        self.befores: list[list[Token]] = []
        """The history in front of each user message that a fork can name."""
        self.waiting: list[str] = []
        self.ends: list[str] = []
        self.phase = "idle"
        self.requests = 0
        self.asked: list[Token] = []
        self.calls: list[list[str]] = []
        """Of the response in hand: id, kind, command, and the outcome (or `new`, or `open`)."""
        self.unanswered = 0
        self.is_full = self.was_full = self.is_big = self.is_compacted = False
        self.behind: str | None = None
        """The op that overtakes what the model has just done."""
        self.approved: set[str] = set()
        self.answered: list[str] = []
        self.slug = self.turn_slug = "small"
        self.runs: dict[str, Reply[TurnResult]] = {}
        self.taken: list[str] = []
        self.due: list[tuple[Reply[TurnResult], str]] = []

    @initialize()
    def start(self) -> None:
        self.open(None)

    def open(self, path: Path | None) -> None:
        self.manager = self.new_manager(self.home.name)
        self.run(self.manager.__aenter__())
        new = self.run(
            self.manager.start_thread(self.config)
            if path is None
            else self.manager.resume_thread_from_rollout(self.config, path)
        )
        self.thread, self.actor = new.thread, new.thread._actor
        self.path = Path(new.thread.rollout_path or "")
        self.stream = self.thread.events()

    def new_manager(self, home: str) -> ThreadManager:
        model = ScriptedModel(self.desk.answer)
        times = dict.fromkeys(("turn_timeout_s", "tool_timeout_s", "ask_timeout_s"), FOREVER_S)
        config = ManagerConfig(durability="memory", block_warning_s=0, approval_timeout_s=APPROVAL_S, **times)  # type: ignore[arg-type]
        return ThreadManager(home, model=model, config=config)

    def run(self, awaitable: Awaitable[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(LIMIT_S):
                return await awaitable

        return self.loop.run_until_complete(limited())

    def text(self, word: str) -> str:
        self.count += 1
        return f"{word} {self.count}"

    # --- the model -------------------------------------------------------------------------------------------------

    def begin(self, texts: Sequence[str]) -> None:
        self.unanswered, self.was_full, self.is_compacted, self.turn_slug = 0, False, False, self.slug
        self.take(texts)
        self.ask_next()

    def take(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.befores.append(list(self.history))
            self.history.append(("user", text))
        self.unanswered += len(texts)
        self.taken += texts
        self.waiting = []

    def ask_next(self) -> None:
        old = self.history[: len(self.history) - self.unanswered]
        is_long = not self.is_compacted and (self.is_full or self.is_big)
        self.phase = "summarizing" if is_long and old else "asked"
        self.asked = [*old, COMPACT] if self.phase == "summarizing" else list(self.history)
        self.requests += self.behind is None

    def take_and_ask(self) -> None:
        if self.behind != "compact":
            self.take(self.waiting)
        self.ask_next()

    def close_calls(self, text: str) -> None:
        outputs = [token[1] for token in self.history if token[0] == "output"]
        self.history += [("output", call[0], text) for call in self.calls if call[0] not in outputs]
        self.calls = []

    def end(self, how: str, *, begins_next: bool = True) -> None:
        self.close_calls("aborted" if how == "error" else CUT)
        self.ends.append(how)
        self.phase = "idle"
        self.due += [(self.runs.pop(text), how) for text in self.taken if text in self.runs]
        self.taken = []
        if self.waiting and begins_next and self.behind != "compact":
            self.begin(self.waiting)

    def summed_up(self, text: str) -> None:
        cut = len(self.history) - (self.unanswered if self.phase == "summarizing" else 0)
        old, new = self.history[:cut], self.history[cut:]
        self.history = [*(token for token in old if token[0] == "user"), ("summary", text), *new]
        self.is_full, self.is_big, self.is_compacted = False, False, True
        if self.phase == "compacting":
            self.end("completed")
        else:
            self.take_and_ask()

    def interrupted(self) -> None:
        if self.phase != "idle":
            self.close_calls(CUT)
            self.take(self.waiting)
            self.end("interrupted")

    def compacted(self) -> None:
        if self.phase != "idle":
            self.end("replaced", begins_next=False)
        if self.history:
            self.phase, self.asked = "compacting", [*self.history, COMPACT]
            self.requests += 1
        else:
            self.end("completed")

    def completed(self, is_big: bool) -> None:
        self.is_full, self.was_full, self.is_compacted, self.is_big = False, False, False, is_big
        self.unanswered = 0
        if self.calls:
            self.phase = "tools"
            self.run_calls()
        else:
            self.end("completed")

    def run_calls(self) -> None:
        """Read-only calls that follow each other run at once, any other alone; outputs come in call order."""
        recorded = sum(token[0] == "output" and token[1] in [call[0] for call in self.calls] for token in self.history)
        for index, call in enumerate(self.calls):
            before = self.calls[:index]
            is_alone = call[1] == "ask_alone" or "ask_alone" in [other[1] for other in before if is_undone(other)]
            if call[3] == "new" and not (is_alone and any(map(is_undone, before))):
                call[3] = call[2] if call[1] == "quick" else "approved" if call[2] in self.approved else "open"
            if index == recorded and not is_undone(call):
                self.history.append(("output", call[0], call[3]))
                recorded += 1
        if recorded == len(self.calls):
            self.calls = []
            self.take_and_ask()

    def opened(self) -> list[list[str]]:
        return [call for call in self.calls if call[3] == "open"]

    # --- what the client does --------------------------------------------------------------------------------------

    @precondition(lambda self: self.phase == "asked")
    @rule(act=MODEL_ACTS)
    def model_acts(self, act: Act) -> None:
        act(self)

    @precondition(lambda self: self.opened())
    @rule(act=ANSWERS)
    def client_answers(self, act: Act) -> None:
        act(self)

    @precondition(lambda self: self.phase != "idle" or (self.history and self.ends[-1] != "completed"))
    @rule(act=CUTS)
    def client_cuts(self, act: Act) -> None:
        act(self)

    @rule(act=BESIDE)
    def client_does_something_beside(self, act: Act) -> None:
        act(self)

    @precondition(lambda self: self.path.exists())
    @rule(act=OTHER_THREADS)
    def lines_are_read_again(self, act: Act) -> None:
        act(self)

    @rule(as_run=st.booleans(), slug=st.none() | MODELS)
    def give_input(self, as_run: bool, slug: str | None) -> None:
        text = self.text("input")
        if as_run:
            self.runs[text] = self.thread.run(text)
        else:
            self.slug = slug or self.slug
            self.thread.submit(UserTurn(text, model=slug))
        self.waiting.append(text)
        if self.phase == "idle":
            self.begin(self.waiting)

    def override(self, slug: str, is_moved: bool) -> None:
        self.slug = slug
        self.run(self.thread.submit(OverrideTurnContext(model=slug, cwd="/tmp" if is_moved else None)))

    def steer(self, is_right: bool) -> None:
        turn_id, text = self.turn_id(), self.text("steered")
        reply = self.thread.steer(text, expected_turn_id=turn_id if is_right else "another")
        if self.phase in ("idle", "compacting"):
            with pytest.raises(NoActiveTurn):
                self.run(reply)
        elif not is_right:
            with pytest.raises(ExpectedTurnMismatch):
                self.run(reply)
        else:
            assert self.run(reply) == turn_id
            self.waiting.append(text)

    def interrupt(self) -> None:
        self.thread.submit(Interrupt())
        self.interrupted()

    def compact(self) -> None:
        self.thread.submit(Compact())
        self.compacted()

    def roll_back(self, num_turns: int) -> None:
        self.run(self.thread.submit(ThreadRollback(num_turns=num_turns)))
        told = self.read()
        assert isinstance(told[-1].msg, ThreadRolledBack if self.phase == "idle" else Error)
        if self.phase == "idle":
            self.is_full = self.is_big = False
            said = [index for index, token in enumerate(self.history) if token[0] in ("user", "summary")]
            if said:
                del self.history[said[max(0, len(said) - num_turns)] :]
            del self.befores[max(0, len(self.befores) - num_turns) :]

    def answer_request(self, index: int, decision: Any) -> None:
        call = self.opened()[index % len(self.opened())]
        approval_id = self.requests_by_call()[call[0]]
        self.run(self.thread.submit(ExecApproval(id=approval_id, decision=decision)))
        self.answered.append(approval_id)
        if decision == "abort":
            self.interrupted()
            return
        if decision == "approved_for_session":
            self.approved.add(call[2])
        call[3] = decision
        self.run_calls()

    def answer_no_open_request(self, index: int, decision: Any) -> None:
        opened = [call[0] for call in self.opened()]
        closed = [name for call, name in self.requests_by_call().items() if call not in opened]
        approval_id = closed[index % len(closed)] if closed else "unknown"
        self.run(self.thread.submit(ExecApproval(id=approval_id, decision=decision)))
        told = self.read()[-1].msg
        assert isinstance(told, Warning)
        assert repr(approval_id) in told.message

    def let_requests_time_out(self) -> None:
        self.loop.ahead_s += APPROVAL_S + 1
        for call in self.opened():
            call[3] = "denied"
        self.run_calls()

    # --- what the model does ---------------------------------------------------------------------------------------

    def say(self, is_whole: bool) -> None:
        text = self.text("said")
        self.desk.says(ItemAdded(Message(role="assistant")), TextDelta(text))
        if is_whole:
            self.desk.says(said(text))
            self.history.append(("assistant", text))
            self.unanswered = 0

    def call(self, calls: list[tuple[str, str]], is_big: bool | None) -> None:
        for kind, command in calls:
            call_id = self.text("call")
            arguments = f'{{"command": "{command}"}}'
            self.desk.says(ItemDone(FunctionCall(name=kind, call_id=call_id, arguments=arguments)))
            self.calls.append([call_id, kind, command, "new"])
            self.history.append(("call", call_id))
        self.unanswered = 0
        if is_big is not None:
            self.complete(is_big)

    def complete(self, is_big: bool) -> None:
        self.desk.says(usage(is_big))
        self.completed(is_big)

    def fail(self, is_too_long: bool) -> None:
        self.desk.says(ContextWindowExceeded() if is_too_long else StreamError("gone"))
        if is_too_long and not self.was_full and not self.calls:
            self.was_full = self.is_full = True
            self.take_and_ask()
        else:
            self.end("error")

    @precondition(lambda self: self.phase in ("summarizing", "compacting"))
    @rule(is_written=st.booleans())
    def sum_up(self, is_written: bool) -> None:
        text = self.text("summary")
        self.desk.says(*((said(text), usage(False)) if is_written else (StreamError("gone"),)))
        if is_written:
            self.summed_up(text)
        else:
            self.end("error")

    def cut_what_was_just_told(self, step: str, op: str) -> None:
        if self.phase in ("idle", "tools") or self.calls:
            return
        text = self.text("input")
        if op == "input":  # it is there before the thread looks at the step
            self.waiting.append(text)
        else:
            self.behind = op
        if self.phase != "asked":
            self.sum_up(step != "fail")
        elif step == "say":
            self.say(True)
        elif step == "complete":
            self.complete(False)
        else:
            self.fail(False)
        if op == "interrupt":
            self.interrupt()
        elif op == "compact":
            self.compact()
        else:
            self.runs[text] = self.thread.run(text)
        self.behind = None

    # --- other threads with the same lines -------------------------------------------------------------------------

    def reopen(self) -> None:
        self.run(self.manager.close())
        self.interrupted()
        self.check()
        self.open(self.path if self.path.exists() else None)
        self.approved, self.is_full, self.slug = set(), False, "small"

    def fork(self, nth: int | None) -> None:
        new = self.run(self.manager.fork_thread(nth, self.config, self.thread.thread_id))
        before = self.history if nth is None else self.befores[nth] if nth < len(self.befores) else []
        assert closed(tokens(new.thread._actor.record.history)) == closed(before)
        self.run(self.manager.remove_thread(new.thread_id))

    def resume_what_a_kill_would_leave(self) -> None:
        self.check()
        with TemporaryDirectory() as home:
            copy = Path(home, self.path.name)
            shutil.copy(self.path, copy)
            lines = get_rollout_history(copy).get_rollout_items()
            assert [item.text for line in pending_inputs(lines) for item in line.items] == self.waiting  # type: ignore[union-attr]
            manager = self.new_manager(home)
            self.run(manager.__aenter__())
            new = self.run(manager.resume_thread_from_rollout(self.config, copy))
            check_pairs(new.thread._actor.record.history)
            assert closed(tokens(new.thread._actor.record.history)) == closed(self.history)
            self.run(manager.close())

    # --- what always holds -----------------------------------------------------------------------------------------

    def turn_id(self) -> str | None:
        self.agree()
        started = [event.id for event in self.read() if isinstance(event.msg, TaskStarted)]
        return started[-1] if started else None

    def requests_by_call(self) -> dict[str, str]:
        requests = [event.msg for event in self.read() if isinstance(event.msg, ExecApprovalRequest)]
        assert len({request.approval_id for request in requests}) == len(requests)
        return {request.call_id: request.approval_id for request in requests}

    def read(self) -> list[Event]:
        while (event := self.stream.take()) is not None:
            self.seen.append(event)
        return self.seen

    def agree(self) -> None:
        """Let everything happen that is on its way."""

        async def until_agreed() -> None:
            for _ in range(MOST_ROUNDS):
                if self.agrees():
                    break
                await asyncio.sleep(0)

        self.loop.run_until_complete(until_agreed())

    def agrees(self) -> bool:
        turn = self.actor.turn
        opened = [] if turn is None else [request.asked.call_id for request in (turn.approvals or {}).values()]
        return (
            (self.phase == "idle") == (turn is None)
            and self.desk.requests == self.requests
            and tokens(self.actor.record.history) == self.history
            and sorted(opened) == sorted(call[0] for call in self.opened())
        )

    @invariant()
    def check(self) -> None:
        self.agree()
        assert tokens(self.actor.record.history) == self.history
        assert self.agrees()
        if self.phase in ("asked", "summarizing", "compacting") and self.desk.prompt is not None:
            assert tokens(self.desk.prompt.input) == self.asked
            assert self.desk.prompt.model == (self.turn_slug if self.phase != "compacting" else self.desk.prompt.model)
        for reply, how in self.due:
            result = self.run(reply)
            assert result.aborted == (how if how in ("interrupted", "replaced") else None)
            assert (result.error is not None) == (how == "error")
        self.due = []
        check_events(self.read(), self.ends, is_running=self.phase != "idle")
        self.check_file()

    def check_file(self) -> None:
        assert self.manager._opened is not None
        if not self.manager._opened.shared.writer.is_unused:
            self.manager._opened.shared.writer.drain(LIMIT_S)
        if self.path.exists():
            lines = get_rollout_history(self.path).get_rollout_items()
            assert model_history(lines) == self.actor.record.history

    def teardown(self) -> None:
        if hasattr(self, "manager"):
            self.run(self.manager.close())
            if sys.exc_info()[0] is None:
                self.interrupted()
                self.check()
        self.loop.close()
        self.home.cleanup()


def is_undone(call: list[str]) -> bool:
    return call[3] in ("new", "open")


def said(text: str) -> ItemDone:
    return ItemDone(Message(role="assistant", content=(OutputText(text=text),)))


def usage(is_big: bool) -> Completed:
    return Completed(TokenUsage(total_tokens=2 * LIMIT_TOKENS if is_big else 1))


def tokens(history: Sequence[ResponseItem]) -> list[Token]:
    found: list[Token] = []
    for item in history:
        if isinstance(item, FunctionCall):
            found.append(("call", item.call_id))
        elif isinstance(item, FunctionCallOutput):
            found.append(("output", item.call_id, str(item.output)))
        elif isinstance(item, Message) and item.text.startswith(SUMMARY_PREFIX):
            found.append(("summary", item.text.removeprefix(SUMMARY_PREFIX).strip()))
        elif isinstance(item, Message) and (item.role != "user" or is_user_message(item)):
            found.append((item.role, item.text))
    return found


def closed(history: Sequence[Token]) -> list[Token]:
    """Without the outputs: calls that are still open have theirs in other words, or at another place."""
    return [token for token in history if token[0] != "output"]


def check_pairs(history: Sequence[ResponseItem]) -> None:
    assert close_open_calls(history) == (list(history), [])
    called: list[str] = []
    for item in history:
        if isinstance(item, FunctionCall):
            called.append(item.call_id)
        elif isinstance(item, FunctionCallOutput):
            called.remove(item.call_id)
        elif isinstance(item, Message):
            assert item.role == "assistant" or called == []
    assert called == []


def check_events(seen: Sequence[Event], ends: Sequence[str], *, is_running: bool) -> None:
    turn_id: str | None = None
    found: list[str] = []
    turns: set[str] = set()
    for event in seen:
        match event.msg:
            case TaskStarted():
                assert turn_id is None
                assert event.id not in turns
                turn_id = event.id
                turns.add(event.id)
            case TaskComplete(error=error):
                assert event.id == turn_id
                found.append("completed" if error is None else "error")
                turn_id = None
            case TurnAborted(reason=reason):
                assert event.id == turn_id
                found.append(reason)
                turn_id = None
            case Warning() | Error() | ThreadRolledBack():
                pass
            case msg if msg.type != "shutdown_complete":
                assert event.id == turn_id
    assert found == list(ends)
    assert (turn_id is not None) == is_running


TurnMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    derandomize="HYPOTHESIS_PROFILE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestTurns = TurnMachine.TestCase
