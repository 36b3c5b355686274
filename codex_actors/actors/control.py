"""`AgentControl`: the weak road from a thread back to the supervisor.

It holds the supervisor *actor* by a weak reference, upgraded for each call: a control never keeps a manager alive, and
after the manager is gone it says so.

Source: `codex-rs/core/src/agent/control.rs`, `AgentControl`.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from codex_actors.actors import messages
from codex_actors.actors.shared import Shared
from codex_actors.config import Config
from codex_actors.errors import InvalidRequest, UnsupportedOperation
from codex_actors.protocol.history import ThreadSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputItem
from codex_actors.protocol.ops import Interrupt, Op, Submission, parse_input
from codex_actors.protocol.status import AgentStatus, Ended
from codex_actors.runtime.mailbox import Letter
from codex_actors.runtime.reply import Reply, answered
from codex_actors.runtime.status_watch import StatusWatch

if TYPE_CHECKING:
    from codex_actors.actors.supervisor import SupervisorActor
    from codex_actors.actors.thread import ThreadActor

R = TypeVar("R")


class AgentTree:
    """The agents that were spawned through one control, and the config whose limits hold for them."""

    __slots__ = ("limits", "members")

    def __init__(self) -> None:
        self.limits: Config | None = None
        self.members: list[weakref.ref[ThreadActor]] = []

    def at_work(self) -> int:
        """How many of them start or run; derived from the threads themselves. Runs in: the loop's OS thread."""
        live = [(ref, actor) for ref in self.members if (actor := ref()) is not None and not actor.has_ended]
        self.members = [ref for ref, _ in live]
        return sum(actor.phase in ("starting", "running") for _, actor in live)


class AgentControl:
    """What an agent may do to other agents of its manager. One control serves a root thread and all its descendants.

    Every call answers with a `Reply`. After the manager is gone commands raise
    `UnsupportedOperation("thread manager dropped")`, and status answers `not_found`.
    """

    __slots__ = ("__weakref__", "_shared", "_supervisor", "tree")

    def __init__(self, supervisor: SupervisorActor | None, shared: Shared | None) -> None:
        self._supervisor = (lambda: None) if supervisor is None else weakref.ref(supervisor)
        self._shared = shared
        self.tree = AgentTree()

    def __reduce__(self) -> Any:
        # A control that travels to another process has no supervisor there.
        return AgentControl, (None, None)

    def spawn_agent(
        self, config: Config, items_or_text: str | Sequence[InputItem | str], *, source: ThreadSource | None = None
    ) -> Reply[ThreadId]:
        """Make a thread in this tree and give it its first input; answered when the input is accepted.

        Args:
            source: Where it comes from; `SubAgentSource(parent_thread_id, depth)` for a child of a thread. None is the
                manager's own source.

        Raises:
            InvalidRequest: the config or the input is none.
            AgentLimitReached, AgentDepthLimitReached: by the reply; nothing was started.
        """
        if not isinstance(config, Config):
            raise InvalidRequest(f"config: {type(config).__name__} is not a Config")
        return self.ask(messages.SpawnAgent(config, parse_input(items_or_text), source, self))

    def send_input(self, thread_id: ThreadId | str, items_or_text: str | Sequence[InputItem | str]) -> Reply[str]:
        """Give a thread input; answered with the submission id when it is accepted."""
        return self._send(thread_id, parse_input(items_or_text))

    def interrupt_agent(self, thread_id: ThreadId | str) -> Reply[str]:
        """Abort a thread's turn; answered with the submission id."""
        return self._send(thread_id, Interrupt())

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

    def _send(self, thread_id: ThreadId | str, op: Op) -> Reply[str]:
        self._upgrade()
        assert self._shared is not None
        submission = Submission(id=str(self._shared.clock.uuid7()), op=op)
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
