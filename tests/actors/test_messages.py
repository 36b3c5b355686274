from __future__ import annotations

import asyncio
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from codex_actors.actors import messages
from codex_actors.actors.control import AgentControl
from codex_actors.config import Config
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.events import TaskStarted, UserMessage
from codex_actors.protocol.history import EventMsgLine, Forked, New, Resumed, SessionSource, SubAgentSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import Interrupt, Op, Shutdown, Submission, ThreadRollback, UserInput
from codex_actors.protocol.status import AgentStatus
from codex_actors.services.auth import AuthManager, CodexAuth
from codex_actors.services.models import ModelsManager
from codex_actors.services.skills import SkillsManager
from codex_actors.tools.tool import tool

THREAD_ID = ThreadId("0193b5b8-0000-7000-8000-000000000001")
LINE = EventMsgLine(payload=UserMessage(message="hi"))


@tool
def look(place: str) -> str:
    """Look at a place."""
    return place


CONFIG = Config(model="m", cwd=Path("/repo"), base_instructions="B", tools=(look,), max_agents=3)
AUTH = AuthManager.from_auth_for_testing(CodexAuth.create_dummy())
MODELS = ModelsManager(None, AUTH, ScriptedModel(["one"]))
SKILLS = SkillsManager(None)
SOURCE = SubAgentSource(parent_thread_id=THREAD_ID, depth=1)


def submission(op: Op) -> Submission:
    return Submission(id="s1", op=op)


def spawn(history: Any, source: Any) -> messages.SpawnThread:
    return messages.SpawnThread(CONFIG, AUTH, MODELS, SKILLS, history, source, AgentControl(None, None))


EXAMPLES: list[messages.Message[Any]] = [
    spawn(New(), SessionSource.CLI),
    spawn(Resumed(THREAD_ID, (LINE,), Path("/x.jsonl")), SOURCE),
    spawn(Forked((LINE,)), SessionSource.EXEC),
    messages.SpawnAgent(CONFIG, UserInput("hi"), SOURCE, AgentControl(None, None)),
    messages.GetThread(THREAD_ID),
    messages.FindThread(THREAD_ID, Path("/x.jsonl")),
    messages.ListThreads(),
    messages.SendOp(THREAD_ID, submission(UserInput("hi"))),
    messages.GetStatus(THREAD_ID),
    messages.WatchStatus(THREAD_ID),
    messages.ShutdownThread(THREAD_ID),
    messages.RemoveThread(THREAD_ID),
    messages.ThreadConfigured(THREAD_ID),
    messages.ThreadEnded(THREAD_ID, AgentControl(None, None)),
    messages.ThreadInterrupted(THREAD_ID, AgentControl(None, None)),
    messages.AgentFinished(THREAD_ID, THREAD_ID, AgentStatus.completed("x")),
    messages.ListAgents(AgentControl(None, None)),
    messages.InterruptAgent(),
    messages.SteerInput(submission(UserInput("hi")), "t"),
    messages.HoldPolicy("untrusted"),
    messages.PolicyChanged(THREAD_ID, "untrusted", AgentControl(None, None)),
    messages.TakeNotice(THREAD_ID, AgentStatus.INTERRUPTED),
    messages.Configure(CONFIG, New(), SOURCE, "small", Path("/home")),
    messages.SubmitOp(submission(Interrupt())),
    messages.SubmitOp(submission(Shutdown())),
    messages.SubmitOp(submission(ThreadRollback(num_turns=2))),
    messages.RunInput(submission(UserInput(items=["a", "b"], final_output_json_schema={"type": "object"}))),
    messages.CancelRun("s1"),
    messages.GiveHistory(),
    messages.Subscribe(None),
    messages.Unsubscribe(None),
    messages.WarnOf("careful"),
]


def shape(value: Any) -> Any:
    """The value's data, however deep; what compares by identity only counts by its class."""
    if isinstance(value, AgentControl | AuthManager | ModelsManager | SkillsManager):
        return type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value), *(shape(getattr(value, field.name)) for field in dataclasses.fields(value))]
    return value


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_message_comes_back_equal_from_pickle(message: messages.Message[Any]) -> None:
    assert shape(pickle.loads(pickle.dumps(message))) == shape(message)


def test_each_message_has_an_example_here() -> None:
    kinds = {
        value
        for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, messages.Message) and value is not messages.Message
    }
    assert kinds == {type(example) for example in EXAMPLES}


def test_messages_are_frozen_dataclasses_with_slots() -> None:
    for kind in {type(example) for example in EXAMPLES}:
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_control_that_travelled_has_no_manager() -> None:
    copy = pickle.loads(pickle.dumps(AgentControl(None, None)))
    assert asyncio.run(_status(copy)) == "not_found"


async def _status(control: AgentControl) -> str:
    return str(await control.get_status(THREAD_ID))


def test_models_manager_that_travelled_still_answers() -> None:
    copy = pickle.loads(pickle.dumps(MODELS))
    assert copy.known_models(CONFIG) == MODELS.known_models(CONFIG)


def test_events_pickle_as_they_are() -> None:
    event = TaskStarted(turn_id="t1")
    assert pickle.loads(pickle.dumps(event)) == event
