"""`LoopActor`: a `pykka.Actor` whose mailbox is drained by callbacks on an event loop. No OS thread, no task.

Honest pykka: `Actor.start()`, `ActorRef.ask/tell/stop/proxy`, the life-cycle hooks. Where it deviates:

| pykka 4.5 | here | reason |
|---|---|---|
| an ask that races a stop is never answered | it fails with `InternalAgentDied` | every wait has an end |
| a `BaseException` in a handler stops all actors | it stops this one (`on_stop` runs) | no actor ends another |
| `KeyboardInterrupt` does so, too | it passes to the loop; the mailbox goes on | Ctrl-C belongs to the host |
| a failing `on_start` calls no hook | `on_failure` is called | a start that fails can be cleaned up |
| `await future` blocks the loop, as do the futures of `map` and `stop` | they wait without blocking | `Reply` |
| `get()` in the actor's own OS thread waits for ever | `DeadlockError` | the loop's OS thread serves all actors |
| a reply's exception keeps its frames | it keeps none (they are logged) | a held reply must not keep an actor alive |
| `actor_stopped` is a `threading.Event` | it has its methods, and is smaller | thousands of actors |
| the registry keeps an actor reachable while it runs | an actor of a loop lives while something holds it | weak road |
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeAlias

import pykka
from pykka.messages import _ActorStop

from codex_actors.errors import ActorNotFound, InternalAgentDied, InvalidRequest
from codex_actors.runtime.mailbox import Letter, Mailbox
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.reply import Reply

logger = logging.getLogger("pykka")

STEP_SLICE = 64
"""Steps handled before other actors are served."""


class _Later:
    def __repr__(self) -> str:
        return "LATER"


LATER: Final = _Later()
"""What a handler returns that has taken `self.reply_to` and will answer it later."""

_START: Final = object()


class StopFlag:
    """A `threading.Event` that is one object until somebody waits for it: pykka's costs each actor six, and 1 KiB."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: threading.Event | None = None

    def is_set(self) -> bool:
        """As `threading.Event.is_set`."""
        return self._is_set

    def set(self) -> None:
        """As `threading.Event.set`."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """As `threading.Event.clear`."""
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    def wait(self, timeout: float | None = None) -> bool:
        """As `threading.Event.wait`."""
        if self._event is None:
            self._event = threading.Event()
        # Looked at behind the event's making: a `set` on another OS thread either saw the event or is seen here.
        return self._is_set or self._event.wait(timeout)


class LoopRef(pykka.ActorRef[Any]):
    """pykka's ref, whose asks and stops answer with a `Reply` that never blocks the loop."""

    def __init__(self, actor: LoopActor) -> None:
        super().__init__(actor)
        self._pump = actor.pump

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """As `pykka.ActorRef.ask`."""
        reply: Reply[Any] = self.actor_class._create_future_at(self._pump)
        if not self.is_alive():
            reply.fail(ActorNotFound(str(self)))
        else:
            self.actor_inbox.put(Letter(message, reply))
        return reply.get(timeout=timeout) if block else reply

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """As `pykka.ActorRef.stop`."""
        asked = self.ask(_ActorStop(), block=False)
        reply: Reply[bool] = type(asked)()
        asked.when_done(lambda: reply.answer(asked.succeeded()))
        reply._home, reply._timeout_s = asked._home, asked._timeout_s
        return reply.get(timeout=timeout) if block else reply


class LoopActor(pykka.Actor):
    """An actor on the loop of `pump`. Handlers run on the loop: they change state, tell, and return; they never wait."""

    pump: Pump
    is_registered: ClassVar[bool] = True
    """Whether it stands in pykka's `ActorRegistry`, a list that is searched from its beginning at each actor's end."""
    actor_inbox: Mailbox
    reply_to: Reply[Any] | None = None
    """The reply of the message in hand, for a handler that returns `LATER`."""
    sender_context: contextvars.Context | None = None
    """The context in which the message in hand was sent, where its sender gave it along."""

    def __init__(self, *_args: Any, pump: Pump | None = None, **_kwargs: Any) -> None:
        if pump is not None:
            self.pump = pump
        super().__init__()
        self.actor_stopped = StopFlag()  # type: ignore[assignment]
        self._actor_ref = LoopRef(self)

    def _create_actor_inbox(self) -> Mailbox:  # type: ignore[override]
        return Mailbox(self, self.pump)

    @staticmethod
    def _create_future() -> Reply[Any]:
        return Reply()

    @classmethod
    def _create_future_at(cls, pump: Pump) -> Reply[Any]:
        return Reply(pump)

    def _start_actor_loop(self) -> None:
        if not self.is_registered:
            pykka.ActorRegistry.unregister(self._actor_ref)
        if type(self).on_start is not pykka.Actor.on_start:
            self.actor_inbox.put(Letter(_START))

    def on_step(self, step: Any) -> None:
        """Handle a step of the actor's own turn task. Runs in: the loop's OS thread."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The actor has ended, in whatever way; its mailbox is closed. Runs in: the loop's OS thread."""

    def serve(self) -> bool:
        """Handle one control message, or a slice of steps; True if more wait. Runs in: the loop's OS thread."""
        box = self.actor_inbox
        try:
            if not box.empty():
                self._receive(box.get())
            else:
                self._take_steps()
        except BaseException:
            # The pump is unwound (KeyboardInterrupt): what still waits must be served in the next round.
            if box.served():
                self.pump.schedule(self)
            raise
        return box.served()

    def _take_steps(self) -> None:
        take, on_step = self.actor_inbox.take_step, self.on_step
        try:
            for _ in range(STEP_SLICE):
                step = take()
                if step is None:
                    break
                on_step(step)
        except Exception:
            self._fail()
        if self.actor_stopped.is_set():
            self._finish()

    def _receive(self, envelope: Any) -> None:
        reply = self.reply_to = envelope.reply_to
        self.sender_context = getattr(envelope, "context", None)
        try:
            if envelope.message is _START:
                self.on_start()
                return
            response = self._handle_receive(envelope.message)
            if reply is not None and response is not LATER:
                reply.set(response)
        except Exception as error:
            if reply is None:
                self._fail()
            else:
                logger.info(f"Exception returned from {self} to caller:", exc_info=sys.exc_info())
                answer_with(reply, error)
        except KeyboardInterrupt:
            if reply is not None:
                answer_with(reply, InternalAgentDied("interrupted by the keyboard"))
            raise
        except BaseException as error:
            logger.debug(f"{error!r} in {self}. Stopping it.")
            self._stop()
            if reply is not None:
                answer_with(reply, InternalAgentDied(repr(error)))
        finally:
            self.reply_to = self.sender_context = None
            if self.actor_stopped.is_set():
                self._finish()

    def go_on(self, call: Callable[[], Any]) -> None:
        """Go on with a message whose handler returned `LATER`: what `call` raises is the actor's failure."""
        try:
            call()
        except Exception:
            self._fail()
        if self.actor_stopped.is_set():
            self._finish()

    def _fail(self) -> None:
        self._handle_failure(*sys.exc_info())
        try:
            self.on_failure(*sys.exc_info())
        except Exception:
            self._handle_failure(*sys.exc_info())

    def _finish(self) -> None:
        if not self.actor_inbox.closed:
            self.actor_inbox.close()
            self.on_end()


def answer(reply: Any, value: Any) -> None:
    """Answer a reply of ours (one that its client has cancelled takes no answer), a host's future, or nobody."""
    if isinstance(reply, Reply):
        reply.answer(value)
    elif reply is not None:
        reply.set(value)


def answer_with(reply: Any, error: BaseException) -> None:
    """Fail a reply of ours, a future that a host put into the envelope, or nobody's."""
    if isinstance(reply, Reply):
        reply.fail(error)
    elif reply is not None:
        reply.set_exception((type(error), error, None))


HostRef: TypeAlias = pykka.ActorRef[Any]
"""A ref to a pykka actor of any kind."""


def check_ref(ref: Any) -> None:
    """Refuse what is no `HostRef`, such as a proxy.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(ref, pykka.ActorRef):
        hint = "; give `proxy.actor_ref`" if isinstance(ref, pykka.ActorProxy) else ""
        raise InvalidRequest(f"ref: a {type(ref).__name__} is no pykka.ActorRef{hint}")


def tell_ref(ref: HostRef, message: Any) -> bool:
    """Tell a host's actor; False if it cannot be told any more."""
    try:
        ref.tell(message)
    except pykka.ActorDeadError:
        return False
    except Exception:  # of a host's own kind of actor: it must not end the thread that tells it
        logger.exception("%s could not be told of a thread's events and is not told any more", ref)
        return False
    return True


def retire(ref: LoopRef) -> None:
    """Take a ref out of pykka's registry: its actor is gone, or going. Runs in: the loop's OS thread."""
    ref.actor_stopped.set()
    pykka.ActorRegistry.unregister(ref)
