"""What a thread's actor knows of its running turn, and of the inputs that wait for one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from codex_actors.config import Config
from codex_actors.protocol.events import ExecCommandBegin, TokenUsage, UserMessage
from codex_actors.protocol.history import InputAccepted, ResponseItemLine
from codex_actors.protocol.items import ImageInput, InputItem, Message, ResponseItem, TextInput, user_message
from codex_actors.protocol.ops import Submission, UserInput, UserTurn
from codex_actors.protocol.wire import made
from codex_actors.rollout.replay import Call
from codex_actors.runtime.reply import Reply

if TYPE_CHECKING:
    from codex_actors.actors.approvals import OpenApproval


@dataclass(slots=True)
class Accepted:
    """An input on its way into the history.

    Attributes:
        submission_id: Its id.
        ack: Answered with the id when the input is accepted; None once it is.
        result: Answered with the result of the turn that takes the input in; None where nobody waits for it.
        context: The context of its `submit`; None for an input that was found at load.
        is_recorded: Whether an `input_accepted` line stands for it.
        is_found: Whether it was accepted before the thread was loaded: it begins no turn by itself.
        told: Its event, once it is history.
        answer: What `ack` is answered with where it is not the submission id.
        is_patient: Whether `ack` waits for a rollout that cannot be written.
    """

    submission_id: str
    items: tuple[InputItem, ...]
    schema: dict[str, Any] | None
    context: contextvars.Context | None
    ack: Reply[str] | None = None
    result: Reply[Any] | None = None
    is_recorded: bool = False
    is_found: bool = False
    told: UserMessage | None = None
    answer: str | None = None
    is_patient: bool = True

    @classmethod
    def of(cls, submission: Submission, context: contextvars.Context | None) -> Accepted:
        """The input of a `user_input` or `user_turn` submission."""
        assert isinstance(submission.op, UserInput | UserTurn)
        return cls(submission.id, submission.op.items, submission.op.final_output_json_schema, context)

    @classmethod
    def found(cls, line: InputAccepted) -> Accepted:
        """An input that was accepted before the thread was loaded."""
        return cls(line.submission_id, line.items, line.final_output_json_schema, None, is_recorded=True, is_found=True)

    def fail(self, error: Exception) -> None:
        """Tell its sender that nothing came of it."""
        for reply in (self.ack, self.result):
            if reply is not None:
                reply.fail(error)

    def line(self) -> InputAccepted:
        """What the rollout says of it while it waits."""
        return InputAccepted(submission_id=self.submission_id, items=self.items, final_output_json_schema=self.schema)

    def message(self) -> Message:
        """Its history item."""
        return user_message(self.items)

    def item_line(self, item: Message) -> Any:
        """The line of its history item, which names the line that promised it, if there is one."""
        return ResponseItemLine(payload=item, submission_id=self.submission_id) if self.is_recorded else item

    def event(self) -> UserMessage:
        """What watchers are told, and old Codex versions list threads by."""
        if len(self.items) == 1 and isinstance(self.items[0], TextInput):
            return made(UserMessage, message=self.items[0].text)
        text = "".join(item.text for item in self.items if isinstance(item, TextInput))
        images = tuple(item.image_url for item in self.items if isinstance(item, ImageInput))
        return UserMessage(message=text, images=images) if images else UserMessage(message=text)


class Settings(NamedTuple):
    """What a turn goes by; later changes count from the next one on."""

    config: Config
    model: str
    cwd: Path


@dataclass(slots=True)
class Turn:
    """A turn from its first input to its one end."""

    id: str
    context: contextvars.Context | None
    schema: dict[str, Any] | None
    settings: Settings
    started_s: float
    """By the clock's `passed_s`."""
    is_compaction: bool = False
    """Whether it only replaces the history by a summary: no input joins it."""
    first: int = 0
    """Where in the history the items of this turn begin, behind its input."""
    inputs: int | None = None
    """Where its input begins in the history, while the model has not answered to it."""
    is_compacted: bool = False
    """Whether nothing was asked since the history was replaced by a summary: another one would be no shorter."""
    before: tuple[ResponseItem, ...] = ()
    """Its items that a compaction took out of the history."""
    first_token_s: float | None = None
    task: asyncio.Task[None] | None = None
    expire: Callable[[], None] | None = None
    """What its deadline calls."""
    item_id: str | None = None
    """The item that the model is writing."""
    count: int = 0
    text: str | None = None
    usage: TokenUsage | None = None
    output_problem: str | None = None
    open_calls: list[Call] = field(default_factory=list)
    approvals: dict[str, OpenApproval] | None = None
    """The requests that nobody has answered, by their ids."""
    answers: set[asyncio.Future[Any]] | None = None
    """What its tool calls wait for, shown or still on its way."""
    commands: dict[str, tuple[ExecCommandBegin, float]] | None = None
    """The commands that run, by their calls, and since when."""
    submission_ids: list[str] = field(default_factory=list)
    results: list[Reply[Any]] = field(default_factory=list)

    def name_item(self, item_id: str | None) -> str:
        """The id of an item: the server's, or one of ours."""
        if item_id is not None:
            return item_id
        self.count += 1
        return f"{self.id}:{self.count}"
