from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from codex_actors import Config, NewThread, ScriptedModel, Shutdown, ThreadManager, ThreadPage, ThreadQuery
from codex_actors.errors import InvalidRequest, ThreadNotFound, UnsupportedOperation, WriterConflict
from codex_actors.rollout.listing import list_threads

WAIT_S = 30.0


def begun(manager: ThreadManager, text: str = "Hello.") -> str:
    thread = manager.start_thread(Config()).get().thread
    thread.run(text).get(timeout=WAIT_S)
    return thread.thread_id


def ended(manager: ThreadManager, text: str = "Hello.") -> str:
    thread_id = begun(manager, text)
    thread = manager.get_thread(thread_id).get()
    with thread.events() as events:
        thread.submit(Shutdown()).get()
        while events.next_blocking(WAIT_S) is not None:
            pass
    return thread_id


def listed(manager: ThreadManager, **wanted: object) -> list[str]:
    page = manager.list_threads(ThreadQuery(**wanted)).get(timeout=WAIT_S)  # type: ignore[arg-type]
    return [thread.id for thread in page.threads]


def test_living_and_former_threads_are_listed(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        first = begun(manager, "One.")
    with ThreadManager(tmp_path) as manager:
        second = begun(manager, "Two.")
        assert listed(manager) == [second, first]
        page = manager.list_threads().get(timeout=WAIT_S)
        assert page == list_threads(tmp_path, ThreadQuery())
        assert [(each.preview, each.status) for each in page.threads] == [("Two.", "completed"), ("One.", "completed")]


def test_turn_of_own_thread_moves_it_up(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        first, second = begun(manager), begun(manager)
        assert listed(manager) == [second, first]
        manager.get_thread(first).get().run("More.").get(timeout=WAIT_S)
        assert listed(manager, limit=1) == [first]


def test_archived_thread_leaves_list_and_returns(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread_id = ended(manager)
        path = manager.find(thread_id).get().path
        archived = manager.archive(thread_id).get(timeout=WAIT_S)
        assert (listed(manager), listed(manager, archived=True)) == ([], [thread_id])
        assert archived.parent == tmp_path / "archived_sessions"
        assert manager.unarchive(thread_id[:-1]).get(timeout=WAIT_S) == path
        assert listed(manager) == [thread_id]
        resumed: NewThread = manager.resume_thread_from_rollout(Config(), path).get(timeout=WAIT_S)
        assert resumed.thread_id == thread_id


def test_living_thread_is_not_archived(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread_id = begun(manager)
        with pytest.raises(UnsupportedOperation, match=f"{thread_id} lives here"):
            manager.archive(thread_id).get(timeout=WAIT_S)
        assert listed(manager) == [thread_id]


def test_thread_of_another_manager_is_not_archived(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as owner, ThreadManager(tmp_path) as manager:
        thread_id = begun(owner)
        with pytest.raises(WriterConflict, match="writes this rollout"):
            manager.archive(thread_id).get(timeout=WAIT_S)
        assert listed(manager) == [thread_id]


def test_named_thread_is_found_by_name(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        thread = manager.start_thread(Config()).get().thread
        manager.set_name(thread.thread_id, "the plan").get(timeout=WAIT_S)
        with pytest.raises(ThreadNotFound):
            manager.find("the plan").get(timeout=WAIT_S)
        thread.run("Hello.").get(timeout=WAIT_S)
        assert manager.find("the plan").get(timeout=WAIT_S).id == thread.thread_id
        manager.set_name("the plan", "the end").get(timeout=WAIT_S)
        assert listed(manager, search="THE END") == [thread.thread_id]


def test_lists_at_once_are_all_alike(tmp_path: Path) -> None:
    async def main() -> set[int]:
        async with ThreadManager(tmp_path) as manager:
            for _ in range(3):
                await (await manager.start_thread(Config())).thread.run("Hello.")
            pages = await asyncio.gather(*(manager.list_threads() for _ in range(20)))
            return {len(page.threads) for page in pages}

    assert asyncio.run(main()) == {3}


def test_manager_without_home_lists_nothing() -> None:
    with ThreadManager() as manager:
        thread_id = begun(manager)
        assert manager.list_threads().get() == ThreadPage((), None)
        with pytest.raises(ThreadNotFound):
            manager.find(thread_id).get()
        with pytest.raises(UnsupportedOperation, match="codex_home"):
            manager.archive(thread_id).get()
        with pytest.raises(InvalidRequest, match="ThreadQuery"):
            manager.list_threads("all")  # type: ignore[arg-type]


def test_temporary_home_goes_with_its_index() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        begun(manager)
        assert len(manager.list_threads(ThreadQuery(sources=("exec",))).get().threads) == 1
        home = manager.codex_home
        assert home is not None
        assert (home / "codex_actors" / "index.sqlite").exists()
    assert not home.exists()
