"""`AgentControl`: the weak road from a thread back to the supervisor.

It holds the supervisor *actor* by a weak reference, upgraded for each call: a control never keeps a manager alive, and
after the manager is gone it says so.

Source: `codex-rs/core/src/agent/control.rs`, `AgentControl`.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from codex_actors.actors import messages
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import AgentLimitReached, InvalidRequest, UnsupportedOperation
from codex_actors.protocol.history import SubAgentSource, ThreadSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputItem
from codex_actors.protocol.ops import Interrupt, Op, Submission, parse_input
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.protocol.wire import made
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply, answered
from codex_actors.runtime.status_watch import StatusWatch

if TYPE_CHECKING:
    from codex_actors.actors.supervisor import SupervisorActor
    from codex_actors.actors.thread import ThreadActor

R = TypeVar("R")


_INTERRUPT = made(Interrupt)

NOBODY: frozenset[ThreadId] = frozenset()
"""Most threads never spawn: their tree has no containers of its own."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One agent of a tree; `parent_thread_id` is None for one that no thread spawned, `depth` counts from the root's 0."""

    thread_id: ThreadId
    parent_thread_id: ThreadId | None
    depth: int
    status: AgentStatus


class AgentTree:
    """The agents of one root thread, as their own state machines report them. Runs in: the loop's OS thread, all of it.

    Attributes:
        limits: The config whose `max_agents` and `max_depth` hold: the root's.
        at_work: Those that start, run, or were given an input that they have not yet taken in.
    """

    __slots__ = ("_children", "at_work", "limits")

    def __init__(self) -> None:
        self.limits: Config | None = None
        self.at_work: set[ThreadId] | frozenset[ThreadId] = NOBODY
        self._children: dict[ThreadId | None, dict[ThreadId, weakref.ref[ThreadActor]]] | None = None

    def works(self, actor: ThreadActor) -> None:
        """An agent is at work from now on."""
        if not isinstance(self.at_work, set):
            self.at_work = set()
        self.at_work.add(actor.thread_id)

    def rests(self, actor: ThreadActor) -> None:
        """An agent is no longer at work."""
        if isinstance(self.at_work, set):
            self.at_work.discard(actor.thread_id)

    def add(self, actor: ThreadActor) -> None:
        """A new agent."""
        if self._children is None:
            self._children = {}
        self._children.setdefault(actor.parent_id, {})[actor.thread_id] = weakref.ref(actor)

    def remove(self, actor: ThreadActor) -> None:
        """An agent has ended. One that was resumed meanwhile stays."""
        children = self._children or {}
        siblings = children.get(actor.parent_id, {})
        ref = siblings.get(actor.thread_id)
        if ref is not None and ref() in (actor, None):
            del siblings[actor.thread_id]
        if not siblings:
            children.pop(actor.parent_id, None)

    def children_of(self, thread_id: ThreadId) -> list[ThreadActor]:
        """The agents that a thread has spawned and that have not ended, oldest first."""
        return [] if self._children is None else _alive(self._children.get(thread_id, {}))

    def members(self) -> list[ThreadActor]:
        """All agents that have not ended."""
        return [actor for siblings in (self._children or {}).values() for actor in _alive(siblings)]

    def adopt(self, other: AgentTree, control: AgentControl) -> None:
        """The agents of another tree are this one's: they were resumed before their parent was."""
        for actor in other.members():
            other.remove(actor)
            actor.control = control
            self.add(actor)
            if actor.thread_id in other.at_work:
                self.works(actor)
        other.at_work = NOBODY

    def refusal(self, config: Config) -> AgentLimitReached | None:
        """Why no further agent may be at work; `config` counts in a tree without a root."""
        most, used = (self.limits or config).max_agents, len(self.at_work)
        return AgentLimitReached(most, used) if used >= most else None


def _alive(refs: Mapping[ThreadId, weakref.ref[ThreadActor]]) -> list[ThreadActor]:
    return [actor for ref in refs.values() if (actor := ref()) is not None and not actor.has_ended]


class AgentControl:
    """What an agent may do to other agents of its manager. One tree serves a root thread and all its descendants; the
    control that a tool is given knows whose it is, so that what it spawns are that thread's children.

    Every call answers with a `Reply`. After the manager is gone commands raise
    `UnsupportedOperation("thread manager dropped")`, and status answers `not_found`.

    Attributes:
        thread_id: Whose control it is; None for a host's own.
    """

    __slots__ = ("__weakref__", "_depth", "_shared", "_supervisor", "thread_id", "tree")

    def __init__(
        self,
        supervisor: SupervisorActor | None,
        shared: Shared | None,
        tree: AgentTree | None = None,
        thread_id: ThreadId | None = None,
        depth: int = 0,
    ) -> None:
        self._supervisor = (lambda: None) if supervisor is None else weakref.ref(supervisor)
        self._shared = shared
        self.tree = AgentTree() if tree is None else tree
        self.thread_id = thread_id
        self._depth = depth

    def __reduce__(self) -> Any:
        # A control that travels to another process has no supervisor there.
        return AgentControl, (None, None, None, self.thread_id, self._depth)

    def of(self, thread_id: ThreadId, depth: int) -> AgentControl:
        """This control in the hands of a thread."""
        return AgentControl(self._supervisor(), self._shared, self.tree, thread_id, depth)

    def spawn_agent(
        self, config: Config, items_or_text: str | Sequence[InputItem | str], *, source: ThreadSource | None = None
    ) -> Reply[ThreadId]:
        """Make a thread in this tree and give it its first input; answered when the input is accepted.

        Args:
            source: Where it comes from: `SubAgentSource(parent_thread_id, depth)` for a child of a thread. None makes it a
                child of the thread whose control this is; of a host's own control, a thread of the manager's own source.

        Raises:
            InvalidRequest: the config or the input is none.
            AgentLimitReached, AgentDepthLimitReached: by the reply; nothing was started.
        """
        if not isinstance(config, Config):
            raise InvalidRequest(f"config: {type(config).__name__} is not a Config")
        if source is None and self.thread_id is not None:
            source = SubAgentSource(parent_thread_id=self.thread_id, depth=self._depth + 1)
        return self.ask(messages.SpawnAgent(config, parse_input(items_or_text), source, self))

    def send_input(self, thread_id: ThreadId | str, items_or_text: str | Sequence[InputItem | str]) -> Reply[str]:
        """Give a thread input; answered with the submission id when it is accepted."""
        return self._send(thread_id, parse_input(items_or_text))

    def interrupt_agent(self, thread_id: ThreadId | str) -> Reply[str]:
        """Abort a thread's turn; answered with the submission id."""
        return self._send(thread_id, _INTERRUPT)

    def shutdown_agent(self, thread_id: ThreadId | str) -> Reply[Ended]:
        """End a thread; answered when it has ended and all its lines are kept."""
        return self.ask(messages.ShutdownThread(thread_id_of(thread_id)))

    def get_status(self, thread_id: ThreadId | str) -> Reply[AgentStatus]:
        """A thread's status; `not_found` for an unknown id and after the manager is gone."""
        if self._live() is None:
            return answered(AgentStatus.NOT_FOUND)
        return self.ask(messages.GetStatus(thread_id_of(thread_id)))

    def subscribe_status(self, thread_id: ThreadId | str) -> Reply[StatusWatch]:
        """A watch on a thread's status. Fails with `ThreadNotFound`."""
        return self.ask(messages.WatchStatus(thread_id_of(thread_id)))

    def list_agents(self) -> Reply[tuple[AgentInfo, ...]]:
        """The agents of this tree that have not ended, without the root."""
        return self.ask(messages.ListAgents(self))

    def _send(self, thread_id: ThreadId | str, op: Op) -> Reply[str]:
        shared = self._shared
        if shared is None:
            raise UnsupportedOperation("thread manager dropped")
        submission = Submission(id=str.__str__(shared.clock.uuid7()), op=op)
        return self.ask(messages.SendOp(thread_id_of(thread_id), submission))

    def _live(self) -> SupervisorActor | None:
        supervisor = self._supervisor()
        if supervisor is None or supervisor.shared.is_closing or supervisor.actor_stopped.is_set():
            return None
        return supervisor

    def _upgrade(self) -> SupervisorActor:
        supervisor = self._live()
        if supervisor is None or self._shared is None:
            raise UnsupportedOperation("thread manager dropped")
        self._shared.check_process()
        return supervisor

    def ask(self, message: messages.Message[R]) -> Reply[R]:
        """Ask the supervisor."""
        supervisor = self._upgrade()
        assert self._shared is not None
        reply: Reply[R] = Reply(self._shared.pump, self._shared.config.ask_timeout_s)
        supervisor.actor_inbox.put(Letter(message, reply, contextvars.copy_context()))
        return reply

    def tell(self, message: messages.Message[None]) -> None:
        """Tell the supervisor a fact, if it still lives. Runs in: the loop's OS thread."""
        supervisor = self._supervisor()
        if supervisor is not None:
            supervisor.actor_inbox.put(Letter(message))


def thread_id_of(value: ThreadId | str) -> ThreadId:
    """The thread id that `value` is.

    Raises:
        InvalidRequest: it is not a UUID.
    """
    if isinstance(value, ThreadId):
        return value
    try:
        return ThreadId(value)
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest(f"not a thread id: {value!r} is not a UUID") from None
