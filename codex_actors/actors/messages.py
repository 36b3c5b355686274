"""Every message between the actors, grouped by who receives it. `Message[R]` is answered with an `R`; each one pickles.

What is asked is in the imperative, what is told as a fact in the past participle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from codex_actors.config import Config
from codex_actors.protocol.events import Event
from codex_actors.protocol.history import InitialHistory, ThreadSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import ApprovalPolicy, Submission, UserInput
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.rollout.forking import Recorded
from codex_actors.services.auth import AuthManager
from codex_actors.services.models import ModelsManager
from codex_actors.services.skills import SkillsManager
from codex_actors.turn import TurnResult

if TYPE_CHECKING:
    from codex_actors.actors.control import AgentControl, AgentInfo
    from codex_actors.actors.handle import CodexThread, NewThread  # noqa: F401  named in strings below
    from codex_actors.runtime.status_watch import StatusWatch  # noqa: F401

R = TypeVar("R")


class Message(Generic[R]):
    """A message whose reply is an `R`; None where it is told."""

    __slots__ = ()


# --- to the supervisor ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpawnThread(Message["NewThread"]):
    """Make a thread. Source: the arguments of `Codex::spawn`."""

    config: Config
    auth_manager: AuthManager
    models_manager: ModelsManager
    skills_manager: SkillsManager
    initial_history: InitialHistory
    session_source: ThreadSource
    agent_control: AgentControl


@dataclass(frozen=True, slots=True)
class SpawnAgent(Message[ThreadId]):
    """Make a thread in the tree of `agent_control` and give it its first input; `source` None is the manager's."""

    config: Config
    input: UserInput
    source: ThreadSource | None
    agent_control: AgentControl


@dataclass(frozen=True, slots=True)
class ListAgents(Message[tuple["AgentInfo", ...]]):
    """The agents of the tree of `agent_control`."""

    agent_control: AgentControl


@dataclass(frozen=True, slots=True)
class GetThread(Message["CodexThread"]):
    """The live thread with this id."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class FindThread(Message["CodexThread | None"]):
    """The thread with this id, listed or only held, if it lives here (and writes `path`, where one is given).

    A thread that is just ending has ended when this is answered with None.
    """

    thread_id: ThreadId
    path: Path | None


@dataclass(frozen=True, slots=True)
class ListThreads(Message[list[ThreadId]]):
    """The ids of the listed threads, oldest first."""


@dataclass(frozen=True, slots=True)
class SendOp(Message[str]):
    """Pass an op to a thread."""

    thread_id: ThreadId
    submission: Submission


@dataclass(frozen=True, slots=True)
class GetStatus(Message[AgentStatus]):
    """A thread's status; `not_found` if it is not listed."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class WatchStatus(Message["StatusWatch"]):
    """A watch on a thread's status."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class ShutdownThread(Message[Ended]):
    """End a thread; answered when it has ended."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class RemoveThread(Message["CodexThread | None"]):
    """Take a thread off the list; it lives on while somebody holds it."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class ThreadConfigured(Message[None]):
    """A newborn has answered its `Configure`."""

    thread_id: ThreadId


@dataclass(frozen=True, slots=True)
class ThreadInterrupted(Message[None]):
    """A turn was interrupted: the agents that its thread has at work are, too."""

    thread_id: ThreadId
    agent_control: AgentControl


@dataclass(frozen=True, slots=True)
class PolicyChanged(Message[None]):
    """A thread asks for approval by another policy: its agents are held to it."""

    thread_id: ThreadId
    approval_policy: ApprovalPolicy
    agent_control: AgentControl


@dataclass(frozen=True, slots=True)
class AgentFinished(Message[None]):
    """An agent has finished a turn, or ended in the middle of one: its parent has to learn of it."""

    parent_thread_id: ThreadId
    thread_id: ThreadId
    status: AgentStatus


@dataclass(frozen=True, slots=True)
class ThreadEnded(Message[None]):
    """A thread has ended, and its agents with it."""

    thread_id: ThreadId
    agent_control: AgentControl


# --- to a thread ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configure(Message[Event]):
    """Become a thread; the answer is its first event, `session_configured`."""

    config: Config
    initial_history: InitialHistory
    session_source: ThreadSource
    model: str
    codex_home: Path | None
    parent_policy: ApprovalPolicy = "never"


@dataclass(frozen=True, slots=True)
class SubmitOp(Message[str]):
    """Take an op; answered with the submission id when it is accepted, as durable as the manager's `durability`."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class RunInput(Message[TurnResult]):
    """Take an input; answered with the result of the turn that took it in."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class SteerInput(Message[str]):
    """Take an input into the running turn; answered with that turn's id when it is accepted."""

    submission: Submission
    expected_turn_id: str | None


@dataclass(frozen=True, slots=True)
class HoldPolicy(Message[None]):
    """Ask for approval at least as often as the parent does."""

    approval_policy: ApprovalPolicy


@dataclass(frozen=True, slots=True)
class CancelRun(Message[None]):
    """Interrupt the turn that took this submission in, if it still runs."""

    submission_id: str


@dataclass(frozen=True, slots=True)
class InterruptAgent(Message[None]):
    """The turn of this agent's parent was interrupted: its own is, too, and those of its agents."""


@dataclass(frozen=True, slots=True)
class TakeNotice(Message[None]):
    """Tell the model, with its next request, how an agent of this thread has fared."""

    thread_id: ThreadId
    status: AgentStatus


@dataclass(frozen=True, slots=True)
class GiveHistory(Message[Recorded]):
    """All that the thread has recorded, written or not."""


@dataclass(frozen=True, slots=True)
class Subscribe(Message[None]):
    """Tell every event from now on, and `Ended` at the end, to a pykka actor."""

    ref: Any


@dataclass(frozen=True, slots=True)
class Unsubscribe(Message[None]):
    """Undo `Subscribe`."""

    ref: Any


@dataclass(frozen=True, slots=True)
class WarnOf(Message[None]):
    """Emit a `warning`."""

    message: str
