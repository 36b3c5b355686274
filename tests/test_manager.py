from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codex_actors import Config, ManagerConfig, ScriptedModel, SessionSource, ThreadId, ThreadManager
from codex_actors.actors.messages import Configure
from codex_actors.actors.thread import ThreadActor
from codex_actors.errors import (
    CodexError,
    InternalAgentDied,
    SessionConfiguredNotFirstEvent,
    ThreadNotFound,
    UnsupportedOperation,
)
from codex_actors.protocol.events import Event, SessionConfigured
from codex_actors.protocol.events import Warning as WarningEvent
from codex_actors.protocol.history import ModelPreset
from codex_actors.runtime.clock import SimulatedClock
from codex_actors.services.auth import CodexAuth
from codex_actors.testing import no_leaks

WAIT_S = 10.0


def test_new_thread_holds_its_first_event() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        new = manager.start_thread(Config(cwd=Path("/repo"), model="m")).get(timeout=WAIT_S)
        configured = new.session_configured
        assert manager.get_thread(new.thread_id).get(timeout=WAIT_S) is new.thread
    assert isinstance(configured, SessionConfigured)
    assert configured is new.thread.session_configured
    assert (configured.session_id, configured.cwd, configured.model) == (new.thread_id, "/repo", "m")
    assert configured.rollout_path == str(new.thread.rollout_path)
    assert (configured.approval_policy, configured.sandbox_policy) == ("never", {"type": "danger-full-access"})


def test_threads_are_listed_oldest_first_until_removed() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        ids = [manager.start_thread(Config()).get(timeout=WAIT_S).thread_id for _ in range(5)]
        assert manager.list_thread_ids().get(timeout=WAIT_S) == ids == sorted(ids)
        assert all(isinstance(thread_id, ThreadId) for thread_id in ids)
        removed = manager.remove_thread(ids[2]).get(timeout=WAIT_S)
        assert removed is not None
        assert removed.run("still here").get(timeout=WAIT_S).text == "echo: still here"
        assert manager.list_thread_ids().get(timeout=WAIT_S) == ids[:2] + ids[3:]
        assert manager.remove_thread(ids[2]).get(timeout=WAIT_S) is None
        with pytest.raises(ThreadNotFound):
            manager.get_thread(ids[2]).get(timeout=WAIT_S)


def test_ids_may_be_given_as_text() -> None:
    with ThreadManager(model=ScriptedModel()) as manager:
        new = manager.start_thread(Config()).get(timeout=WAIT_S)
        assert manager.get_thread(str(new.thread_id)).get(timeout=WAIT_S) is new.thread
        assert manager.remove_thread(str(new.thread_id).upper()).get(timeout=WAIT_S) is new.thread


class OddThreadActor(ThreadActor):
    """A newborn that says something else first."""

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Configure):
            super().on_receive(message)
            return Event("", WarningEvent(message="hello"))
        return super().on_receive(message)


@pytest.mark.parametrize("event_id", ["", "1"])
def test_other_first_event_takes_the_newborn_down(monkeypatch: pytest.MonkeyPatch, event_id: str) -> None:
    class Late(ThreadActor):
        def on_receive(self, message: Any) -> Any:
            event = super().on_receive(message)
            return Event(event_id, event.msg) if isinstance(message, Configure) else event

    odd = Late if event_id else OddThreadActor
    with no_leaks(), ThreadManager(model=ScriptedModel()) as manager:
        monkeypatch.setattr("codex_actors.actors.supervisor.ThreadActor", odd)
        starting = manager.start_thread(Config())
        with pytest.raises(SessionConfiguredNotFirstEvent) as caught:
            starting.get(timeout=WAIT_S)
        spawning = manager.agent_control().spawn_agent(Config(max_agents=1), "hi")
        with pytest.raises(SessionConfiguredNotFirstEvent):
            spawning.get(timeout=WAIT_S)
        assert manager.list_thread_ids().get(timeout=WAIT_S) == []
        monkeypatch.undo()
        manager.start_thread(Config()).get(timeout=WAIT_S)
    assert str(caught.value) == "session configured event was not the first event in the stream"


def test_for_testing_has_a_home_that_goes() -> None:
    manager = ThreadManager.for_testing(ScriptedModel())
    assert manager.codex_home is None
    assert manager.session_source == SessionSource.EXEC
    with manager:
        home = manager.codex_home
        assert home is not None
        manager.start_thread(Config()).get(timeout=WAIT_S).thread.run("hi").get(timeout=WAIT_S)
        assert list(home.rglob("rollout-*.jsonl"))
    assert not home.exists()


def test_home_that_cannot_be_removed_holds_up_no_close(caplog: pytest.LogCaptureFixture) -> None:
    with no_leaks(), ThreadManager.for_testing(ScriptedModel()) as manager:
        assert manager.codex_home is not None
        manager.codex_home.rmdir()
        manager.codex_home.write_text("a file in its place")
        assert manager.close().get(timeout=WAIT_S).is_drained
    assert "the temporary home is left behind" in caplog.text
    manager.codex_home.unlink()


def test_for_testing_keeps_a_given_home(tmp_path: Path) -> None:
    with ThreadManager.for_testing(ScriptedModel(), codex_home=tmp_path) as manager:
        manager.start_thread(Config()).get(timeout=WAIT_S).thread.run("hi").get(timeout=WAIT_S)
    assert len(list(tmp_path.rglob("rollout-*.jsonl"))) == 1


def test_files_and_folders_are_the_users_alone(tmp_path: Path) -> None:
    with ThreadManager(tmp_path, model=ScriptedModel()) as manager:
        path = manager.start_thread(Config()).get(timeout=WAIT_S).thread.rollout_path
        assert path is not None
        thread = manager.get_thread(manager.list_thread_ids().get(timeout=WAIT_S)[0]).get(timeout=WAIT_S)
        thread.run("hi").get(timeout=WAIT_S)
        assert path.stat().st_mode & 0o777 == 0o600
        assert {folder.stat().st_mode & 0o777 for folder in list(path.parents)[:4]} == {0o700}
    when = time.strptime("/".join(path.parts[-4:-1]), "%Y/%m/%d")
    assert path.name.startswith(time.strftime("rollout-%Y-%m-%dT", when))
    assert path.name.endswith(f"-{thread.thread_id}.jsonl")


def test_manager_without_home_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadManager(model=ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        thread.run("hi").get(timeout=WAIT_S)
        assert (thread.rollout_path, thread.session_configured.rollout_path) == (None, None)
    assert list(tmp_path.iterdir()) == []


def test_list_models_names_the_given_model() -> None:
    with ThreadManager.for_testing(ScriptedModel(name="tiny"), auth=CodexAuth.create_dummy()) as manager:
        presets = manager.list_models(Config()).get(timeout=WAIT_S)
        assert [(preset.model, preset.is_default) for preset in presets] == [("tiny", True)]
        assert manager.models_manager.known_models(Config()) == presets
        assert manager.skills_manager is manager.skills_manager
        assert manager.start_thread(Config()).get(timeout=WAIT_S).session_configured.model == "tiny"


class ServedModel(ScriptedModel):
    """Has a server, which it can ask while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.asked: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.is_open = True
        yield
        self.is_open = False

    async def fetch_models(self, etag: str | None) -> Any:
        assert self.is_open
        self.asked.append(threading.current_thread().name)
        return SimpleNamespace(presets=(ModelPreset(id="m", model="m", display_name="M"),), etag="e")


def test_list_models_asks_the_open_provider_once(tmp_path: Path) -> None:
    model, clock = ServedModel(), SimulatedClock(1)
    with no_leaks(), ThreadManager(tmp_path, model=model, config=ManagerConfig(clock=clock)) as manager:
        replies = [manager.list_models(Config()) for _ in range(3)]
        assert {reply.get(timeout=WAIT_S)[0].model for reply in replies} == {"m"}
        assert model.asked == ["codex_actors-loop"]
        assert manager.start_thread(Config()).get(timeout=WAIT_S).session_configured.model == "m"
        clock.advance(301)
        manager.list_models(Config()).get(timeout=WAIT_S)
        assert len(model.asked) == 2
    assert (tmp_path / "models_cache.json").exists()


def test_list_models_never_fails_where_open_does(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(ServedModel):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            raise RuntimeError("no way in")
            yield

    with ThreadManager(model=Closed()) as manager:
        assert [preset.model for preset in manager.list_models(Config()).get(timeout=WAIT_S)] == ["scripted"]
    assert "could not be fetched (RuntimeError)" in caplog.text


def test_default_model_echoes() -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        assert thread.run("hello").get(timeout=WAIT_S).text == "echo: hello"


def test_close_reports_every_thread_sorted() -> None:
    manager = ThreadManager(model=ScriptedModel())
    with no_leaks(), manager:
        new = [manager.start_thread(Config()).get(timeout=WAIT_S) for _ in range(10)]
        manager.remove_thread(new[3].thread_id).get(timeout=WAIT_S)
        report = manager.close().get(timeout=WAIT_S)
    assert list(report.completed) == sorted(one.thread_id for one in new)
    assert (report.timed_out, report.unwritten, report.abandoned_tools, report.dead_letters) == ((), (), 0, 0)
    assert {one.thread.agent_status().word for one in new} == {"shutdown"}


def test_calls_that_wait_at_close_are_answered() -> None:
    async def main() -> None:
        model = ScriptedModel()
        gate = model.hold()
        async with ThreadManager(model=model) as manager:
            thread = (await manager.start_thread(Config())).thread
            never = thread.watch_status().until(lambda status: status.word == "completed")
            running = thread.run("hi")
            await gate.wait_reached()
            starting = manager.start_thread(Config())
        assert (await running).status.word == "interrupted"
        with pytest.raises(InternalAgentDied):
            await asyncio.wait_for(_of(never), WAIT_S)
        with pytest.raises(CodexError):
            await asyncio.wait_for(_of(starting), WAIT_S)

    asyncio.run(main())


async def _of(reply: Any) -> Any:
    return await reply


def test_async_and_sync_managers_do_the_same() -> None:
    async def main() -> str | None:
        async with ThreadManager(model=ScriptedModel()) as manager:
            thread = (await manager.start_thread(Config())).thread
            return (await thread.run("hi")).text

    with ThreadManager(model=ScriptedModel()) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        assert thread.run("hi").get(timeout=WAIT_S).text == asyncio.run(main())


def test_error_in_the_with_still_closes() -> None:
    class HostError(Exception):
        pass

    threads: list[Any] = []

    def host() -> None:
        with ThreadManager(model=ScriptedModel()) as manager:
            threads.append(manager.start_thread(Config()).get(timeout=WAIT_S).thread)
            raise HostError

    with no_leaks(), pytest.raises(HostError):
        host()
    assert threads[0].agent_status().word == "shutdown"


def test_cancelled_async_with_still_closes() -> None:
    async def main() -> None:
        entered = asyncio.Event()
        threads: list[Any] = []

        async def host() -> None:
            async with ThreadManager(model=ScriptedModel()) as manager:
                threads.append((await manager.start_thread(Config())).thread)
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(host())
        await asyncio.wait_for(entered.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, WAIT_S)
        assert threads[0].agent_status().word == "shutdown"

    with no_leaks():
        asyncio.run(main())


def test_two_managers_do_not_know_each_other() -> None:
    with ThreadManager(model=ScriptedModel()) as one, ThreadManager(model=ScriptedModel()) as two:
        new = one.start_thread(Config()).get(timeout=WAIT_S)
        assert two.list_thread_ids().get(timeout=WAIT_S) == []
        with pytest.raises(ThreadNotFound):
            two.get_thread(new.thread_id).get(timeout=WAIT_S)


def test_blocked_loop_is_named_in_a_warning() -> None:
    released = threading.Event()

    def answer(prompt: Any) -> str:
        released.wait(0.4)
        return "late"

    config = ManagerConfig(block_warning_s=0.05)
    with ThreadManager(model=ScriptedModel(answer), config=config) as manager:
        thread = manager.start_thread(Config()).get(timeout=WAIT_S).thread
        stream = thread.events()
        thread.run("hi").get(timeout=WAIT_S)
        while (event := stream.next_blocking(WAIT_S)) is not None and event.msg.type != "warning":
            continue
    assert event is not None
    assert "blocked" in event.msg.message  # type: ignore[union-attr]
    assert "test_manager.py" in event.msg.message  # type: ignore[union-attr]


def test_construction_does_nothing_yet(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    manager = ThreadManager(tmp_path / "home", model=ScriptedModel())
    assert set(threading.enumerate()) == before
    assert not (tmp_path / "home").exists()
    with pytest.raises(UnsupportedOperation):
        manager.agent_control()
    del manager
    gc.collect()
    assert os.listdir(tmp_path) == []


NO_DESCRIPTORS = """
import os, resource
from codex_actors import ThreadManager

manager = ThreadManager()
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")), hard))
try:
    manager.__enter__()
except OSError as error:
    print(error.strerror)
"""


def test_a_manager_without_descriptors_raises_at_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "Too many open files\n"
