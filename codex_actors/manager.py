"""`ThreadManager`: the front door. It owns the supervisor; the supervisor owns the threads.

Source: `codex-rs/core/src/thread_manager.rs`, `ThreadManager`.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import weakref
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from codex_actors.actors import kept, loading, messages
from codex_actors.actors.closing import CloseReport
from codex_actors.actors.control import AgentControl, thread_id_of
from codex_actors.actors.following import RolloutStream
from codex_actors.actors.handle import CodexThread, NewThread
from codex_actors.actors.opened import Opened, open_in_os_thread
from codex_actors.actors.supervisor import Services, SupervisorActor
from codex_actors.config import Config, ManagerConfig
from codex_actors.errors import InvalidRequest, UnsupportedOperation
from codex_actors.model.provider import ModelProvider
from codex_actors.model.scripted import ScriptedModel
from codex_actors.protocol.history import Forked, InitialHistory, ModelPreset, New, Resumed, SessionSource, ThreadSource
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.chain import Ancestor
from codex_actors.rollout.forking import ForkPoint, HistoryDiff
from codex_actors.rollout.listing import ThreadPage, ThreadQuery
from codex_actors.rollout.summary import KeptThread
from codex_actors.rollout.truncation import truncate_before_nth_user_message
from codex_actors.runtime.pump import DeadLetter
from codex_actors.runtime.reply import Reply
from codex_actors.services.auth import AuthManager, CodexAuth
from codex_actors.services.models import ModelsManager, Surroundings
from codex_actors.services.skills import SkillsManager

R = TypeVar("R")


class ThreadManager:
    """Starts agent threads and keeps them: enter it with `async with` on your loop, or with `with` from sync code.

    Every call but the properties answers with a `Reply`: `await` it, or `get()` it. Construction does no I/O and needs no
    loop. Before it is entered, after its close, on a second entry and in a forked child process, calls raise
    `UnsupportedOperation`.

    Args:
        codex_home: Where rollouts are kept, below `sessions/`; None keeps nothing on disk.
        model: Who answers; None is the embedded `ScriptedModel`, which echoes.
        auth_manager: None reads `<codex_home>/auth.json`.
        session_source: What threads of this manager are recorded as.
        config: The runtime's settings.
    """

    def __init__(
        self,
        codex_home: Path | str | None = None,
        *,
        model: ModelProvider | None = None,
        auth_manager: AuthManager | None = None,
        session_source: ThreadSource = SessionSource.CLI,
        config: ManagerConfig | None = None,
    ) -> None:
        if config is not None and not isinstance(config, ManagerConfig):
            raise InvalidRequest(f"config: {type(config).__name__} is not a ManagerConfig")
        if model is not None and not isinstance(model, ModelProvider):
            raise InvalidRequest(f"model: {type(model).__name__} has no stream() and open() (see ModelProvider)")
        home = None if codex_home is None else Path(codex_home).absolute()
        self._home = home
        self._model: ModelProvider = ScriptedModel() if model is None else model
        self._config = config or ManagerConfig()
        auth = auth_manager or AuthManager(home)
        models = ModelsManager(home, auth, self._model)
        self._services = Services(auth, models, SkillsManager(home), session_source)
        self._is_temporary = False
        self._state: Literal["new", "open", "closed"] = "new"
        self._opened: Opened | None = None
        self._supervisor: SupervisorActor | None = None
        self._os_thread: threading.Thread | None = None

    @classmethod
    def for_testing(
        cls, model: ModelProvider, *, auth: CodexAuth | None = None, codex_home: Path | str | None = None
    ) -> Self:
        """A manager for tests: source `exec`, fixed auth (a dummy by default), only this model.

        Without a home it keeps its rollouts in a temporary one, made when it is entered and removed at its close, drop or
        exit. Source: `ThreadManager::with_models_provider` and `..._and_home`.
        """
        fixed = AuthManager.from_auth_for_testing(auth or CodexAuth.create_dummy())
        manager = cls(codex_home, model=model, auth_manager=fixed, session_source=SessionSource.EXEC)
        manager._is_temporary = codex_home is None
        return manager

    # --- entering and leaving --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._enter()
        made, self._os_thread = open_in_os_thread(self._maker())
        self._opened, self._supervisor = made
        opened = self._opened
        opened.on_closed = opened.shared.pump.loop.stop
        self._opened_up(opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        report = self.close()
        try:
            report.get()
        except KeyboardInterrupt:
            self._hurry()
            report.get()
            raise
        finally:
            if self._os_thread is not None:
                self._os_thread.join(self._config.close_timeout_s)

    async def __aenter__(self) -> Self:
        self._enter()
        self._opened, self._supervisor = self._maker()(asyncio.get_running_loop())
        self._opened_up(self._opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        report = self.close()
        try:
            await report
        except asyncio.CancelledError:
            self._hurry()
            await report
            raise

    def _enter(self) -> None:
        if self._state != "new":
            raise UnsupportedOperation("a manager is entered once; make a new one")
        self._state = "open"

    def _maker(self) -> Any:
        """What makes the running parts in the loop's OS thread, without holding this manager."""
        home = tempfile.TemporaryDirectory(prefix="codex_actors-") if self._is_temporary else None
        path = Path(home.name) if home is not None else self._home
        return partial(_open, path, self._model, self._config, home, self._services)

    def _opened_up(self, opened: Opened) -> None:
        finalizer = weakref.finalize(self, opened.drop)
        # At exit the loop's OS thread may already be gone; then the writer is drained (`Opened`), nothing more.
        finalizer.atexit = False

    def _hurry(self) -> None:
        if self._opened is not None:
            self._opened.shared.pump.post(self._opened.hurry)

    def close(self) -> Reply[CloseReport]:
        """Refuse new calls, shut every thread down, write everything; within `close_timeout_s`, and once.

        Leaving the `with` does it. Running turns are interrupted, and recorded as that.
        """
        if self._state == "new" or self._opened is None:
            raise UnsupportedOperation("the manager was not entered")
        self._opened.shared.check_process()
        self._state = "closed"
        self._supervisor = None
        self._opened.shared.is_closing = True
        self._opened.shared.pump.post(self._opened.begin_close)
        return self._opened.report

    # --- values ----------------------------------------------------------------------------------------------------

    @property
    def session_source(self) -> ThreadSource:
        """What threads of this manager are recorded as."""
        return self._services.session_source

    @property
    def models_manager(self) -> ModelsManager:
        """The models that there are."""
        return self._services.models_manager

    @property
    def skills_manager(self) -> SkillsManager:
        """The skills that there are."""
        return self._services.skills_manager

    @property
    def codex_home(self) -> Path | None:
        """Where rollouts are kept; a temporary home is there once the manager is entered."""
        return self._home if self._opened is None else self._opened.shared.codex_home

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The newest 1,000 messages that could not be delivered, oldest first."""
        return () if self._opened is None else tuple(self._opened.shared.pump.dead_letters)

    def agent_control(self) -> AgentControl:
        """A control for a tree of agents of its own."""
        opened, supervisor = self._running()
        return AgentControl(supervisor, opened.shared)

    # --- replies ---------------------------------------------------------------------------------------------------

    def list_models(self, config: Config) -> Reply[list[ModelPreset]]:
        """The models to offer to a user; never fails. A provider that can ask its server does, where that is due."""
        shared = self._running()[0].shared
        surroundings = Surroundings(shared.load, shared.model.ready, shared.clock.now_s)
        listing = self._services.models_manager.list_models(config, surroundings)
        return shared.pump.run(listing, shared.config.ask_timeout_s)

    def list_thread_ids(self) -> Reply[list[ThreadId]]:
        """The ids of the listed threads, oldest first."""
        return self._ask(messages.ListThreads())

    def get_thread(self, thread_id: ThreadId | str) -> Reply[CodexThread]:
        """A listed thread. Fails with `ThreadNotFound`."""
        return self._ask(messages.GetThread(thread_id_of(thread_id)))

    def remove_thread(self, thread_id: ThreadId | str) -> Reply[CodexThread | None]:
        """Take a thread off the list. It lives while its handle, a stream or a watch of it is held; then it ends behind
        what it had accepted. None if it was not listed."""
        return self._ask(messages.RemoveThread(thread_id_of(thread_id)))

    def start_thread(self, config: Config) -> Reply[NewThread]:
        """A new thread. Nothing is on disk before its first turn."""
        return self._ask(self._spawn(config, New()))

    def resume_thread_with_history(
        self, config: Config, initial_history: InitialHistory, auth_manager: AuthManager | None = None
    ) -> Reply[NewThread]:
        """A thread that begins with this history; `Resumed` of a live id gives the live thread."""
        if not isinstance(initial_history, New | Resumed | Forked):
            raise InvalidRequest(f"initial_history: {type(initial_history).__name__} is not New, Resumed or Forked")
        return self._ask(self._spawn(config, initial_history, auth_manager))

    def resume_thread_from_rollout(
        self,
        config: Config,
        rollout_path: Path | str,
        auth_manager: AuthManager | None = None,
        *,
        take_over: bool = False,
    ) -> Reply[NewThread]:
        """A thread that goes on in its own file; one that lives here is given as it is.

        Args:
            config: Its settings; with `ephemeral` it only begins with the file, and writes none.
            rollout_path: Its file.
            auth_manager: None takes the manager's.
            take_over: Whether to take it from another manager, in this process or another, that is its writer. Whatever
                state that is in, it can record nothing in the thread any more, and ends it. A dead one is not asked.

        Fails with `RolloutError` where the file is none, or one that its history begins with is missing, and with
        `WriterConflict` where another manager or program writes it.
        """
        control, path = self.agent_control(), loading.path_of(rollout_path)
        spawn = partial(_spawn, self._services, control, check_config(config), auth_manager=auth_manager)
        shared = self._running()[0].shared
        claims = None if config.ephemeral else shared.claims
        claim = None if claims is None else partial(claims.claim, take_over=take_over)
        return self._load(loading.resume(shared, control, path, spawn, claim))

    def fork_thread(
        self, nth_user_message: int | None, config: Config | None, path: Path | str | ThreadId
    ) -> Reply[NewThread]:
        """A new thread that begins with what another one recorded before its nth user message.

        Args:
            nth_user_message: From 0; None keeps all; beyond the last, the fork begins with nothing.
            config: None takes the parent's: of a live thread as it is, of a file what it recorded (no tools).
            path: A rollout, or the id of a thread that lives here or is kept in this manager's home.

        Fails with `RolloutError` where the file is none. The fork's own file is whole when this is answered.
        """
        truncate_before_nth_user_message(New(), nth_user_message)
        return self._fork(nth_user_message, config, path)

    def fork(
        self, thread_or_path: CodexThread | ThreadId | Path | str, at: ForkPoint, config: Config | None = None
    ) -> Reply[NewThread]:
        """A new thread that leaves another one at any point of it, with no half turn and no open call.

        Args:
            thread_or_path: A thread, its id, or a rollout; a thread may be in the middle of a turn.
            at: Where; see `ForkPoint`.
            config: None takes the parent's, as `fork_thread` does.

        Fails with `InvalidRequest` where there is no such point, and `RolloutError` where the file is none.
        """
        if not isinstance(at, ForkPoint):
            raise InvalidRequest(f"at: {at!r} is not a ForkPoint")
        return self._fork(at, config, thread_or_path)

    def lineage(self, thread_or_path: CodexThread | ThreadId | Path | str) -> Reply[tuple[Ancestor, ...]]:
        """The thread and those that it was forked from, one after the other; the root is the last."""
        opened, _ = self._running()
        source = loading.source_of(thread_or_path)
        return self._load(loading.lineage(opened.shared, self.agent_control(), source))

    def diff(
        self, a: CodexThread | ThreadId | Path | str, b: CodexThread | ThreadId | Path | str
    ) -> Reply[HistoryDiff]:
        """How many items the histories of two threads have in common, and which each has behind them."""
        opened, _ = self._running()
        sources = loading.source_of(a), loading.source_of(b)
        return self._load(loading.diff(opened.shared, self.agent_control(), *sources))

    # --- what is kept ----------------------------------------------------------------------------------------------

    def list_threads(self, query: ThreadQuery | None = None) -> Reply[ThreadPage]:
        """A page of the threads that the home keeps, living or not: by default the 25 written last that are neither agents
        nor archived. What other programs have written is in it after at most 5 s."""
        if query is not None and not isinstance(query, ThreadQuery):
            raise InvalidRequest(f"query: {type(query).__name__} is not a ThreadQuery")
        shared = self._running()[0].shared
        return self._load(kept.list_kept(shared, query or ThreadQuery()))

    def find(self, which: str) -> Reply[KeptThread]:
        """The kept thread with this id, name, or unique begin of its id. Fails with `ThreadNotFound`, and with
        `InvalidRequest` where there are several."""
        return self._load(kept.find_kept(self._running()[0].shared, which))

    def archive(self, which: str) -> Reply[Path]:
        """Take a thread, named as for `find`, off the list: its file goes to `<home>/archived_sessions/`. The new path.

        Fails with `UnsupportedOperation` while it lives here, `WriterConflict` while another manager or a Codex writes it.
        """
        return self._load(kept.archive_kept(self._running()[0].shared, self.agent_control(), which))

    def unarchive(self, which: str) -> Reply[Path]:
        """Undo `archive`. The new path."""
        return self._load(kept.unarchive_kept(self._running()[0].shared, self.agent_control(), which))

    def set_name(self, which: str, name: str) -> Reply[None]:
        """Name a thread, by which it is then found; the newest name of a thread counts."""
        return self._load(kept.name_kept(self._running()[0].shared, self.agent_control(), which, name))

    def follow(self, path_or_id: Path | str | ThreadId, *, from_start: bool = False) -> Reply[RolloutStream]:
        """The lines of a rollout as they are appended, whoever appends them; nothing is written and nobody is disturbed.

        Args:
            path_or_id: A rollout, or the id of a thread that is kept in this manager's home.
            from_start: Whether to begin with the lines that are there already.

        Fails with `RolloutError` where the file is none, and `ThreadNotFound` where the id has none.
        """
        source, shared = loading.source_of(path_or_id), self._running()[0].shared
        limit_s = shared.config.load_timeout_s + shared.config.ask_timeout_s
        return shared.pump.run(loading.follow(shared, source, from_start=from_start), limit_s)

    # --- how -------------------------------------------------------------------------------------------------------

    def _running(self) -> tuple[Opened, SupervisorActor]:
        opened, supervisor = self._opened, self._supervisor
        if self._state == "new" or opened is None:
            raise UnsupportedOperation("enter the manager first: `with ThreadManager(...) as manager`")
        opened.shared.check_process()
        if supervisor is None or opened.shared.is_closing:
            raise UnsupportedOperation("the manager is closed")
        return opened, supervisor

    def _ask(self, message: messages.Message[R]) -> Reply[R]:
        return self.agent_control().ask(message)

    def _spawn(
        self, config: Config, initial_history: InitialHistory, auth_manager: AuthManager | None = None
    ) -> messages.SpawnThread:
        control = self.agent_control()
        return _spawn(self._services, control, check_config(config), initial_history, auth_manager)

    def _fork(self, at: ForkPoint | int | None, config: Config | None, parent: Any) -> Reply[NewThread]:
        if config is not None:
            check_config(config)
        opened, _ = self._running()
        control, source = self.agent_control(), loading.source_of(parent)
        spawn = partial(_spawn, self._services, control)
        return self._load(loading.fork(opened.shared, control, at, config, source, spawn))

    def _load(self, loads: Coroutine[Any, Any, R]) -> Reply[R]:
        opened, _ = self._running()
        config = opened.shared.config
        return opened.shared.pump.run(loads, config.load_timeout_s + config.ask_timeout_s)


def check_config(config: Any) -> Config:
    """Refuse what is no `Config`.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(config, Config):
        raise InvalidRequest(f"config: {type(config).__name__} is not a Config")
    return config


def _spawn(
    services: Services,
    control: AgentControl,
    config: Config,
    initial_history: InitialHistory,
    auth_manager: AuthManager | None = None,
) -> messages.SpawnThread:
    """Not a method: a load that lasts must not hold the manager."""
    return messages.SpawnThread(
        config,
        auth_manager or services.auth_manager,
        services.models_manager,
        services.skills_manager,
        initial_history,
        services.session_source,
        control,
    )


def _open(
    home: Path | None,
    model: ModelProvider,
    config: ManagerConfig,
    temporary: tempfile.TemporaryDirectory[str] | None,
    services: Services,
    loop: asyncio.AbstractEventLoop,
) -> tuple[Opened, SupervisorActor]:
    """Runs in: the loop's OS thread."""
    opened = Opened(loop, home, model, config, temporary)
    return opened, opened.start_supervisor(services)
