"""How lines are put into a paginated file: numbered, with the events that the newer Codex shows instead of the older ones.

Source: observed of Codex 0.169, which refuses a paginated file with a line that has no `ordinal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from codex_actors.protocol.events import (
    AgentMessage,
    AgentMessageItem,
    AgentReasoning,
    AgentText,
    ContextCompacted,
    ItemCompleted,
    ReasoningItem,
    TaskComplete,
    TaskStarted,
    TurnAborted,
    UserMessage,
    UserMessageItem,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import ImageInput, InputItem, TextInput, Verbatim
from codex_actors.rollout.encode import encode_body


class Pages:
    """The numbering of one file. Runs in: the loop's OS thread, all of it."""

    __slots__ = ("_items", "_next", "_thread_id", "_turn_id")

    def __init__(self, thread_id: ThreadId, next_ordinal: int) -> None:
        self._thread_id = thread_id
        self._next = next_ordinal
        self._turn_id = ""
        self._items = 0

    def bodies(self, lines: Iterable[Any]) -> tuple[bytes, ...]:
        """The lines as they go to the file, but for their timestamp.

        Raises:
            ValueError: one is no JSON; no number is given then.
        """
        bodies = [line if isinstance(line, bytes) else encode_body(self._shown(line)) for line in lines]
        first = self._next
        self._next += len(bodies)
        return tuple([b'","ordinal":%d,' % number + body[2:] for number, body in enumerate(bodies, first)])

    def _shown(self, line: Any) -> Any:
        """What stands for `line`: the items that a user interface shows are told as such."""
        match line:
            case TaskStarted(turn_id=turn_id):
                self._turn_id, self._items = turn_id, 0
            case UserMessage():
                content: list[InputItem] = [TextInput(text=line.message)] if line.message else []
                content += [ImageInput(image_url=url) for url in line.images or ()]
                return self._completed(UserMessageItem(id=self._item_id(), content=tuple(content)))
            case AgentMessage():
                return self._completed(AgentMessageItem(id=self._item_id(), content=(AgentText(text=line.message),)))
            case AgentReasoning():
                return self._completed(ReasoningItem(id=self._item_id(), summary_text=(line.text,)))
            case ContextCompacted():
                return self._completed(Verbatim(raw={"type": "ContextCompaction", "id": self._item_id()}))
            case _:
                pass
        return line

    def _item_id(self) -> str:
        self._items += 1
        return f"{self._turn_id}:{self._items}"

    def _completed(self, item: Any) -> ItemCompleted:
        return ItemCompleted(thread_id=self._thread_id, turn_id=self._turn_id, item=item)


Lifecycle = TaskStarted | TaskComplete | TurnAborted
"""The events that begin and end a turn."""
