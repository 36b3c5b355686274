"""Who watches a thread: its own stream, event streams, pykka refs, status watches. Each learns of the end once."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from codex_actors.protocol.events import Event
from codex_actors.protocol.status import STATUS_EVENTS, Ended, status_after
from codex_actors.runtime.actor import tell_ref
from codex_actors.runtime.pump import Pump
from codex_actors.runtime.status_watch import StatusCell
from codex_actors.runtime.streams import EventStream

logger = logging.getLogger("codex_actors")


class Watchers:
    """Publishes events to all who watch, status first. Runs in: the loop's OS thread, all of it."""

    __slots__ = ("_own", "_pump", "_refs", "_streams", "cell")

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._own: EventStream | None = None
        self._streams: list[weakref.ref[EventStream]] | None = None
        self._refs: list[Any] | None = None
        self.cell = StatusCell()

    def publish(self, event: Event) -> None:
        """Tell everybody, in this order: status, the thread's own stream, streams, refs."""
        if type(event.msg) in STATUS_EVENTS and (status := status_after(event.msg)) is not None:
            self.cell.set(status)
        (self._own or self.own_stream()).push(event)
        if self._streams is not None:
            self._push(self._streams, event)
        if self._refs is not None:
            self._refs = [ref for ref in self._refs if tell_ref(ref, event)] or None

    def _push(self, streams: list[weakref.ref[EventStream]], event: Event) -> None:
        dead = False
        for ref in streams:
            stream = ref()
            if stream is None:
                dead = True
            else:
                stream.push(event)
        if dead:
            self._streams = [ref for ref in streams if ref() is not None] or None

    def own_stream(self) -> EventStream:
        """The stream that `next_event()` reads, made on first use."""
        if self._own is None:
            self._own = EventStream(self._pump, None, rolling=True)
            if self.cell.ended is not None:
                self._own.finish(self.cell.ended)
        return self._own

    def attach(self, stream: EventStream) -> None:
        """Add a stream; one that comes late learns of the end only."""
        if self.cell.ended is not None:
            stream.finish(self.cell.ended)
            return
        if self._streams is None:
            self._streams = []
        self._streams.append(weakref.ref(stream))

    def subscribe(self, ref: Any) -> None:
        """Add a pykka ref."""
        if self._refs is None:
            self._refs = []
        if ref not in self._refs:
            self._refs.append(ref)

    def unsubscribe(self, ref: Any) -> None:
        """Take a pykka ref away."""
        self._refs = [other for other in self._refs or () if other is not ref] or None

    def finish(self, ended: Ended) -> None:
        """The thread has ended."""
        if self.cell.ended is not None:
            return
        self.cell.end(ended)
        if self._own is not None:
            self._own.finish(ended)
        for stream_ref in self._streams or ():
            stream = stream_ref()
            if stream is not None:
                stream.finish(ended)
        for ref in self._refs or ():
            tell_ref(ref, ended)
        self._streams = self._refs = None
