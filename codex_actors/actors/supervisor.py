"""`SupervisorActor`: the registry of threads, the limits, the routing. The one actor that others ask.

Source: `codex-rs/core/src/thread_manager.rs`, `ThreadManagerState`.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from codex_actors.actors import messages
from codex_actors.actors.birth import meta_of
from codex_actors.actors.control import AgentControl, AgentInfo, AgentTree
from codex_actors.actors.handle import CodexThread, NewThread
from codex_actors.actors.shared import Shared
from codex_actors.actors.thread import ThreadActor
from codex_actors.config import Config
from codex_actors.errors import (
    AgentDepthLimitReached,
    InvalidRequest,
    SessionConfiguredNotFirstEvent,
    ThreadNotFound,
    UnsupportedOperation,
)
from codex_actors.protocol.events import Event, SessionConfigured
from codex_actors.protocol.history import New, Resumed, SubAgentSource, ThreadSource
from codex_actors.protocol.ids import INITIAL_SUBMIT_ID, ThreadId
from codex_actors.protocol.ops import Compact, Shutdown, Submission, UserInput, UserTurn
from codex_actors.protocol.status import AgentStatus
from codex_actors.runtime.actor import LATER, LoopActor, answer, answer_with
from codex_actors.runtime.mailbox import Letter, unheeded
from codex_actors.runtime.reply import Reply
from codex_actors.services.auth import AuthManager
from codex_actors.services.models import ModelsManager
from codex_actors.services.skills import SkillsManager


@dataclass(frozen=True, slots=True)
class Services:
    """What threads made through a control are given."""

    auth_manager: AuthManager
    models_manager: ModelsManager
    skills_manager: SkillsManager
    session_source: ThreadSource


@dataclass(slots=True)
class Birth:
    """A thread between its reservation and its first event; `waiting` is told how it went."""

    actor: ThreadActor
    configured: Reply[Event]
    waiting: list[Callable[[NewThread | None, BaseException | None], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Registry:
    """Which threads there are. The supervisor's alone to change, but not a part of it: a manager that is dropped takes
    the supervisor along at once, and its threads still have to be shut down.

    Attributes:
        listed: By id, oldest first; it is what keeps them alive.
        removed: Taken off the list, alive while somebody holds them.
        leaving: The actors of those, until they have ended: one that nobody holds finishes what it had accepted.
        births: Between their reservation and their first event.
    """

    listed: dict[ThreadId, CodexThread] = field(default_factory=dict)
    removed: weakref.WeakValueDictionary[ThreadId, CodexThread] = field(default_factory=weakref.WeakValueDictionary)
    leaving: weakref.WeakValueDictionary[ThreadId, ThreadActor] = field(default_factory=weakref.WeakValueDictionary)
    births: dict[ThreadId, Birth] = field(default_factory=dict)

    def actors(self) -> list[ThreadActor]:
        """All of them."""
        listed = [thread._actor for thread in self.listed.values()]
        return [*listed, *self.leaving.values(), *(birth.actor for birth in self.births.values())]


FACTS = (
    messages.ThreadConfigured,
    messages.ThreadEnded,
    messages.ThreadInterrupted,
    messages.PolicyChanged,
    messages.AgentFinished,
)
"""What the supervisor is told, also while it closes."""


class SupervisorActor(LoopActor):
    """Holds the threads. It alone decides which exist; everybody else has it by a weak reference, but for the manager."""

    def __init__(
        self,
        shared: Shared,
        registry: Registry,
        services: Services,
        close: Callable[[Any], None],
        born: Callable[[SupervisorActor], None],
    ) -> None:
        super().__init__(pump=shared.pump)
        self.shared = shared
        self._threads, self._removed, self._births = registry.listed, registry.removed, registry.births
        self._leaving = registry.leaving
        self._orphans: weakref.WeakValueDictionary[ThreadId, AgentControl] = weakref.WeakValueDictionary()
        """By the parent that does not live here: the control of the agents that were resumed without it."""
        self._services = services
        self._close = close
        self._born: Callable[[SupervisorActor], None] | None = born

    def _start_actor_loop(self) -> None:
        super()._start_actor_loop()
        born, self._born = self._born, None
        if born is not None:
            born(self)

    def on_receive(self, message: Any) -> Any:
        """Handle one message. A foreign one is refused: told, it becomes a dead letter (pykka's registry can broadcast)."""
        if self.shared.is_closing and not isinstance(message, FACTS):
            if isinstance(message, messages.GetStatus):
                return AgentStatus.NOT_FOUND
            raise UnsupportedOperation("the manager is closed")
        match message:
            case messages.SendOp():  # first: it is what is asked most
                return self._send_op(message)
            case messages.SpawnThread():
                self._spawn(message, self._answer_new_thread(self.reply_to))
                return LATER
            case messages.ThreadConfigured():
                return self._file(message.thread_id)
            case messages.ThreadEnded():
                return self._forget(message)
            case messages.ThreadInterrupted():
                return self._take_along(message, messages.InterruptAgent())
            case messages.PolicyChanged():
                return self._take_along(message, messages.HoldPolicy(message.approval_policy))
            case messages.AgentFinished():
                return self._tell_parent(message)
            case messages.GetThread():
                return self._thread(message.thread_id)
            case messages.GetStatus():
                thread = self._threads.get(message.thread_id)
                return AgentStatus.NOT_FOUND if thread is None else thread.agent_status()
            case messages.WatchStatus():
                return self._thread(message.thread_id).watch_status()
            case messages.ListThreads():
                return list(self._threads)
            case messages.ListAgents():
                return self._infos(message.agent_control)
            case messages.SpawnAgent():
                self._spawn_agent(message)
                return LATER
            case messages.RemoveThread():
                return self._remove(message.thread_id)
            case messages.ShutdownThread():
                return self._shut_down(message.thread_id)
            case messages.FindThread():
                return self._find(message)
            case _ if self.reply_to is None:
                return self.pump.refuse(message, "it is no message to the supervisor")
            case _:
                raise InvalidRequest(f"{type(message).__name__} is no message to the supervisor")

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        """It crashed: its threads end as by a close, in order."""
        self._close(None)

    def _thread(self, thread_id: ThreadId) -> CodexThread:
        thread = self._threads.get(thread_id)
        if thread is None:
            raise ThreadNotFound(thread_id)
        return thread

    # --- birth -----------------------------------------------------------------------------------------------------

    def _answer_new_thread(self, reply: Any) -> Callable[[NewThread | None, BaseException | None], None]:
        def told(new: NewThread | None, error: BaseException | None) -> None:
            if error is not None:
                answer_with(reply, error)
            else:
                answer(reply, new)

        return told

    def _spawn(
        self,
        message: messages.SpawnThread,
        told: Callable[[NewThread | None, BaseException | None], None],
        *,
        is_agent: bool = False,
    ) -> None:
        history = message.initial_history
        if isinstance(history, Resumed):
            existing = self._alive(history)
            if isinstance(existing, CodexThread):
                told(NewThread(existing.thread_id, existing, existing.session_configured), None)
                return
            if existing is not None:
                existing.waiting.append(told)
                return
        model = message.models_manager.get_model(message.config)  # a host's provider may raise: nothing is begun yet
        source, control = self._place(message)
        if not isinstance(history, Resumed):  # what is resumed is not at work before it is given input
            source = self._check_limits(message.config, source, control.tree, is_agent=is_agent)
        thread_id = history.conversation_id if isinstance(history, Resumed) else self.shared.clock.uuid7()
        if control.tree.limits is None:
            control.tree.limits = message.config
        born: list[ThreadActor] = []
        ThreadActor.start(self.shared, thread_id, control, source, is_agent, born.append)
        actor = born[0]
        orphans = self._orphans.pop(thread_id, None)
        if orphans is not None:
            control.tree.adopt(orphans.tree, control)
        configured: Reply[Event] = Reply(self.pump)
        self._births[thread_id] = Birth(actor, configured, [told])
        ref = self.actor_ref
        configured.when_done(lambda: ref.actor_inbox.put(Letter(messages.ThreadConfigured(thread_id))))
        parent = self._actor(source.parent_thread_id) if isinstance(source, SubAgentSource) else None
        # One that is just being born tells its own as soon as it has it.
        policy = "never" if parent is None or parent.phase == "starting" else parent.config.approval_policy
        configure = messages.Configure(message.config, history, source, model, self.shared.codex_home, policy)
        actor.actor_inbox.put(Letter(configure, configured))

    def _place(self, message: messages.SpawnThread) -> tuple[ThreadSource, AgentControl]:
        """Where the thread stands: an agent stands in its parent's tree, whoever spawns or resumes it."""
        history, source = message.initial_history, message.session_source
        meta = meta_of(history) if isinstance(history, Resumed) else None
        if meta is not None and meta.parent_thread_id is not None:
            source = SubAgentSource(parent_thread_id=meta.parent_thread_id, depth=meta.depth or 1)
        control = message.agent_control
        if isinstance(source, SubAgentSource):
            parent = self._actor(source.parent_thread_id)
            if parent is not None:
                control = parent.control
            elif meta is not None:  # only a resumed agent can be there before its parent is
                control = self._orphans.setdefault(source.parent_thread_id, control)
        return source, control

    def _alive(self, history: Resumed) -> CodexThread | Birth | None:
        """The thread that a resume names, where it lives here; a removed one is listed again."""
        thread_id = history.conversation_id
        if thread_id in self._births:
            return self._births[thread_id]
        thread = self._living(thread_id)
        if thread is None or thread._actor.phase in ("stopping", "ended"):
            return None
        ours, theirs = thread.rollout_path, history.rollout_path
        if ours is not None and theirs is not None and ours.resolve() != theirs.resolve():
            raise InvalidRequest(f"thread {thread_id} is already running with a different rollout path: {ours}")
        self._threads[thread_id] = thread
        self._removed.pop(thread_id, None)
        self._leaving.pop(thread_id, None)
        return thread

    def _living(self, thread_id: ThreadId) -> CodexThread | None:
        """A thread that is listed, held or still finishing: two actors must never write one rollout."""
        thread = self._threads.get(thread_id) or self._removed.get(thread_id)
        actor = self._leaving.get(thread_id)
        if thread is None and actor is not None:
            thread = CodexThread(self.shared, actor, actor.session_configured, actor.take_back())
            self._removed[thread_id] = thread
        return thread

    def _actor(self, thread_id: ThreadId) -> ThreadActor | None:
        """A thread that has not ended, listed or not."""
        birth, thread = self._births.get(thread_id), self._threads.get(thread_id) or self._removed.get(thread_id)
        actor = self._leaving.get(thread_id) if thread is None else thread._actor
        actor = actor if birth is None else birth.actor
        return None if actor is None or actor.has_ended else actor

    def _check_limits(self, config: Config, source: ThreadSource, tree: AgentTree, *, is_agent: bool) -> ThreadSource:
        """The source with the depth that it really has."""
        if isinstance(source, SubAgentSource):
            parent = self._actor(source.parent_thread_id)
            if parent is None:
                raise ThreadNotFound(source.parent_thread_id)
            depth = max(source.depth, parent.depth + 1)
            most = (tree.limits or config).max_depth
            if depth > most:
                raise AgentDepthLimitReached(most, depth)
            source = source.model_copy(update={"depth": depth})
        refusal = tree.refusal(config) if is_agent or isinstance(source, SubAgentSource) else None
        if refusal is not None:
            raise refusal
        return source

    def _file(self, thread_id: ThreadId) -> None:
        """The newborn has answered: it is listed, unless it said anything but its first event."""
        birth = self._births.pop(thread_id)
        error = birth.configured.error()
        event = None if error is not None else birth.configured.get()
        new = None
        match event:
            case Event(id="", msg=SessionConfigured() as configured) if event.id == INITIAL_SUBMIT_ID:
                thread = CodexThread(self.shared, birth.actor, configured)
                self._threads[thread_id] = thread
                new = NewThread(thread_id, thread, configured)
            case _:
                error = error or SessionConfiguredNotFirstEvent()
                birth.actor.shut_down()
        for told in birth.waiting:
            told(new, error)

    def _spawn_agent(self, message: messages.SpawnAgent) -> None:
        services, reply, context = self._services, self.reply_to, self.sender_context
        spawn = messages.SpawnThread(
            message.config,
            services.auth_manager,
            services.models_manager,
            services.skills_manager,
            New(),
            message.source or services.session_source,
            message.agent_control,
        )

        def spawned(new: NewThread | None, error: BaseException | None) -> None:
            if new is not None:
                self._first_input(new, message.input, reply, context)
            elif error is not None:
                answer_with(reply, error)

        self._spawn(spawn, spawned, is_agent=True)

    def _first_input(self, new: NewThread, op: UserInput, reply: Any, context: contextvars.Context | None) -> None:
        """A spawned agent exists only with its first input; if that is refused, it is taken down again."""
        accepted: Reply[str] = Reply(self.pump)
        submission = Submission(id=str(self.shared.clock.uuid7()), op=op)
        threads, thread_id = self._threads, new.thread_id
        actor = new.thread._actor

        def told() -> None:
            error = accepted.error()
            if error is not None:
                threads.pop(thread_id, None)
                actor.withdraw()
                answer_with(reply, error)
            else:
                answer(reply, thread_id)

        accepted.when_done(told)
        actor.actor_inbox.put(Letter(messages.SubmitOp(submission), accepted, context))

    # --- routing ---------------------------------------------------------------------------------------------------

    def _send_op(self, message: messages.SendOp) -> Any:
        actor = self._thread(message.thread_id)._actor
        tree = actor.control.tree
        is_start = isinstance(message.submission.op, UserInput | UserTurn | Compact) and actor.phase == "idle"
        if actor.is_agent and is_start and actor.thread_id not in tree.at_work:
            self._check_limits(actor.config, self._services.session_source, tree, is_agent=True)
            tree.works(actor)  # from now on, not only when its turn begins
        actor.actor_inbox.put(Letter(messages.SubmitOp(message.submission), self.reply_to, self.sender_context))
        return LATER

    def _remove(self, thread_id: ThreadId) -> CodexThread | None:
        thread = self._threads.pop(thread_id, None)
        if thread is not None:
            self._removed[thread_id] = thread
            self._leaving[thread_id] = thread._actor
            thread._actor.session_configured = thread.session_configured
        return thread

    def _shut_down(self, thread_id: ThreadId) -> Any:
        actor = self._thread(thread_id)._actor
        actor.actor_inbox.put(unheeded(self._shutdown()))
        reply, cell = self.reply_to, actor.cell
        if reply is not None:
            cell.wait(lambda: cell.ended is not None and reply.answer(cell.ended))
        return LATER

    def _find(self, message: messages.FindThread) -> Any:
        thread_id, reply = message.thread_id, self.reply_to
        thread = self._living(thread_id)
        if thread is None or reply is None:
            return None
        cell = thread._actor.cell
        if thread._actor.phase in ("stopping", "ended"):
            cell.wait(lambda: cell.ended is not None and reply.answer(None))
            return LATER
        if message.path is not None and thread.rollout_path is not None and message.path != thread.rollout_path:
            return None
        return thread

    def _take_along(
        self, message: messages.ThreadInterrupted | messages.PolicyChanged | messages.ThreadEnded, fate: Any
    ) -> None:
        """The agents of a thread share its fate; each takes its own agents along in turn."""
        for child in message.agent_control.tree.children_of(message.thread_id):
            child.actor_inbox.put(unheeded(fate))

    def _shutdown(self) -> messages.SubmitOp:
        return messages.SubmitOp(Submission(id=str(self.shared.clock.uuid7()), op=Shutdown()))

    def _tell_parent(self, message: messages.AgentFinished) -> None:
        parent = self._actor(message.parent_thread_id)
        if parent is not None:  # with a parent that has ended there is nobody left to tell
            parent.actor_inbox.put(unheeded(messages.TakeNotice(message.thread_id, message.status)))

    def _forget(self, message: messages.ThreadEnded) -> None:
        self._take_along(message, self._shutdown())
        thread_id = message.thread_id
        thread = self._threads.get(thread_id)
        if thread is not None and thread._actor.has_ended:
            del self._threads[thread_id]
        thread = self._removed.get(thread_id)
        if thread is not None and thread._actor.has_ended:
            self._removed.pop(thread_id, None)
        actor = self._leaving.get(thread_id)
        if actor is not None and actor.has_ended:
            self._leaving.pop(thread_id, None)

    def _infos(self, control: AgentControl) -> tuple[AgentInfo, ...]:
        whose = None if control.thread_id is None else self._actor(control.thread_id)
        tree = control.tree if whose is None else whose.control.tree  # it may have been adopted since
        return tuple(
            AgentInfo(actor.thread_id, actor.parent_id, actor.depth, actor.cell.status) for actor in tree.members()
        )

    # --- the end ---------------------------------------------------------------------------------------------------

    def _stop(self) -> Any:
        """pykka's stop, and so `ActorRegistry.stop_all()`: as the manager's `close()`."""
        self._close(self.reply_to)
        return LATER
