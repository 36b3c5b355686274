from __future__ import annotations

import threading
from typing import Any

import pykka
import pytest

from codex_actors import AgentStatus, Config, Interrupt, ScriptedModel, ThreadManager
from codex_actors.actors.messages import GetStatus, GetThread, ListThreads, SubmitOp
from codex_actors.actors.supervisor import SupervisorActor
from codex_actors.errors import ActorNotFound, InvalidRequest, ThreadNotFound
from codex_actors.protocol.events import Event, ShutdownComplete, TaskComplete, TaskStarted, TurnAborted
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import Shutdown, Submission, parse_input
from codex_actors.protocol.status import Ended
from codex_actors.testing import probe


class Host(pykka.ThreadingActor):
    use_daemon_thread = True

    def on_receive(self, message: Any) -> Any:
        ref, what, is_asked = message
        return ref.ask(what, timeout=10) if is_asked else ref.tell(what)


@pytest.fixture
def host() -> Any:
    ref = Host.start()
    yield ref
    ref.stop()


def supervisor() -> pykka.ActorRef[SupervisorActor]:
    (ref,) = pykka.ActorRegistry.get_by_class(SupervisorActor)
    return ref


def test_a_stock_actor_asks_the_supervisor(host: Any) -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        assert host.ask((supervisor(), ListThreads(), True), timeout=10) == [thread.thread_id]
        assert host.ask((supervisor(), GetThread(thread.thread_id), True), timeout=10) is thread
        with pytest.raises(ThreadNotFound):
            host.ask((supervisor(), GetThread(ThreadId("01999999-9999-7999-8999-999999999999")), True), timeout=10)


def test_a_stock_actor_asks_and_tells_a_thread(host: Any) -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager(model=model) as manager, probe() as watched:
        thread = manager.start_thread(Config()).get().thread
        thread.subscribe(watched.ref).get()
        ref = thread._actor.actor_ref
        submission = Submission(id="from-a-host", op=parse_input("hello"))
        assert host.ask((ref, SubmitOp(submission), True), timeout=10) == "from-a-host"
        assert gate.reached.wait(10)
        host.tell((ref, SubmitOp(Submission(id="stop-it", op=Interrupt())), False))
        seen = [event for event in watched.until(Event) if isinstance(event, Event)]
        while not isinstance(seen[-1].msg, TurnAborted):
            seen.append(watched.next())
        assert {event.id for event in seen} == {"from-a-host"}
        assert isinstance(seen[0].msg, TaskStarted)


def test_a_stock_actor_is_told_events_in_order() -> None:
    with ThreadManager() as manager, probe() as watched:
        thread = manager.start_thread(Config()).get().thread
        stream = thread.events()
        thread.subscribe(watched.ref).get()
        for number in range(5):
            thread.run(f"turn {number}").get(timeout=10)
        thread.submit(Shutdown()).get(timeout=10)
        *events, ended = watched.until(Ended)
        assert ended == Ended(thread.thread_id, "shutdown")
        assert events == list(stream)
        assert isinstance(events[-1].msg, ShutdownComplete)
        texts = [event.msg.last_agent_message for event in events if isinstance(event.msg, TaskComplete)]
        assert texts == [f"echo: turn {number}" for number in range(5)]


def test_a_subscriber_is_told_the_end_at_close() -> None:
    with probe() as watched:
        with ThreadManager() as manager:
            thread = manager.start_thread(Config()).get().thread
            thread.subscribe(watched.ref).get()
        assert watched.until(Ended)[-1] == Ended(thread.thread_id, "shutdown")


def test_one_subscribed_twice_is_told_once() -> None:
    with ThreadManager() as manager, probe() as watched:
        thread = manager.start_thread(Config()).get().thread
        thread.subscribe(watched.ref).get()
        thread.subscribe(watched.ref).get()
        thread.run("hello").get(timeout=10)
        thread.submit(Shutdown()).get(timeout=10)
        events = watched.until(Ended)
        assert sum(isinstance(event.msg, TaskComplete) for event in events[:-1]) == 1


def test_an_unsubscribed_actor_is_told_nothing_more() -> None:
    with ThreadManager() as manager, probe() as watched, probe() as other:
        thread = manager.start_thread(Config()).get().thread
        thread.subscribe(watched.ref).get()
        thread.subscribe(other.ref).get()
        thread.unsubscribe(watched.ref).get()
        thread.run("hello").get(timeout=10)
        thread.submit(Shutdown()).get(timeout=10)
        assert len(other.until(Ended)) > 5
        watched.ref.tell("the first")
        assert watched.next() == "the first"


def test_a_stopped_subscriber_disturbs_nobody() -> None:
    with ThreadManager() as manager, probe() as gone, probe() as stays:
        thread = manager.start_thread(Config()).get().thread
        thread.subscribe(gone.ref).get()
        thread.subscribe(stays.ref).get()
        gone.ref.stop()
        assert thread.run("hello").get(timeout=10).text == "echo: hello"
        thread.submit(Shutdown()).get(timeout=10)
        assert stays.until(Ended)[-1].reason == "shutdown"


def test_one_who_subscribes_late_learns_of_the_end() -> None:
    with ThreadManager() as manager, probe() as watched:
        thread = manager.start_thread(Config()).get().thread
        ref, watch = thread._actor.actor_ref, thread.watch_status()
        ref.stop()
        assert watch.ended().get(timeout=10).reason == "shutdown"
        with pytest.raises(ActorNotFound):
            ref.ask(GetStatus(thread.thread_id), timeout=10)
        thread.subscribe(watched.ref).get(timeout=10)
        assert watched.next() == Ended(thread.thread_id, "shutdown")


def test_stopping_a_ref_ends_its_thread_in_order() -> None:
    model = ScriptedModel()
    gate = model.hold()
    with ThreadManager(model=model) as manager:
        thread = manager.start_thread(Config()).get().thread
        stream, running = thread.events(), thread.run("in the middle")
        assert gate.reached.wait(10)
        assert thread._actor.actor_ref.stop(timeout=10) is True
        assert running.get(timeout=10).status == AgentStatus.INTERRUPTED
        kinds = [type(event.msg) for event in stream]
        assert kinds[-2:] == [TurnAborted, ShutdownComplete]
        assert manager.list_thread_ids().get() == []


def test_a_foreign_message_ends_only_its_thread() -> None:
    with ThreadManager() as manager:
        hit, spared = (manager.start_thread(Config()).get().thread for _ in range(2))
        watch = hit.watch_status()
        with pytest.raises(TypeError, match="no message to a thread"):
            hit._actor.actor_ref.ask("what is this", timeout=10)
        hit._actor.actor_ref.tell("what is this")
        ended = watch.ended().get(timeout=10)
        assert ended.reason == "crashed"
        assert "str is no message to a thread" in (ended.message or "")
        assert manager.list_thread_ids().get() == [spared.thread_id]
        assert spared.run("hello").get(timeout=10).text == "echo: hello"


def test_a_proxy_reads_an_attribute_of_an_actor() -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        proxy: Any = thread._actor.actor_ref.proxy()
        assert proxy.thread_id.get(timeout=10) == thread.thread_id


def test_asks_of_many_stock_actors_are_all_answered() -> None:
    hosts = [Host.start() for _ in range(8)]
    with ThreadManager() as manager:
        ids = {manager.start_thread(Config()).get().thread_id for _ in range(8)}
        futures = [host.ask((supervisor(), ListThreads(), True), block=False) for host in hosts for _ in range(50)]
        assert all(set(future.get(timeout=10)) == ids for future in futures)
    for host in hosts:
        host.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Host")]


def test_a_broadcast_of_the_registry_is_a_dead_letter() -> None:
    with ThreadManager() as manager:
        thread = manager.start_thread(Config()).get().thread
        pykka.ActorRegistry.broadcast("hello")
        assert thread.run("still here").get(timeout=10).text == "echo: still here"
        assert manager.list_thread_ids().get(timeout=10) == [thread.thread_id]
        assert [letter.message for letter in manager.dead_letters] == ["hello"]


def test_a_proxy_is_refused_as_a_subscriber() -> None:
    with ThreadManager() as manager, probe() as told:
        thread = manager.start_thread(Config()).get().thread
        with pytest.raises(InvalidRequest, match=r"give `proxy\.actor_ref`"):
            thread.subscribe(told.ref.proxy())  # type: ignore[arg-type]
        assert thread.run("hi").get(timeout=10).text == "echo: hi"


def test_a_ref_that_cannot_be_told_ends_no_thread() -> None:
    class Broken(pykka.ActorRef[Any]):
        def tell(self, message: Any) -> None:
            raise OSError("no line")

    with ThreadManager() as manager, probe() as told:
        thread = manager.start_thread(Config()).get().thread
        actor = told.ref._actor_weakref()
        assert actor is not None
        thread.subscribe(Broken(actor)).get(timeout=10)
        assert thread.run("hi").get(timeout=10).text == "echo: hi"
        assert thread.agent_status().word == "completed"
