"""From the lines of a rollout to the state of its thread. Pure.

Source: `codex-rs/core/src/codex.rs`, `reconstruct_history_from_rollout`; `compact.rs`, `build_compacted_history`;
`context_manager/normalize.rs`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias

from codex_actors.protocol.events import (
    EventMsg,
    TaskComplete,
    ThreadRolledBack,
    TokenCount,
    TokenUsageInfo,
    TurnAborted,
)
from codex_actors.protocol.history import (
    Compacted,
    CompactedLine,
    EventMsgLine,
    InputAccepted,
    InputAcceptedLine,
    Replayed,
    ResponseItemLine,
    RolloutItem,
    SessionMeta,
    SessionMetaLine,
    TurnContextItem,
    TurnContextLine,
)
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    GhostSnapshot,
    InputText,
    LocalShellCall,
    Message,
    ResponseItem,
)
from codex_actors.protocol.status import AgentStatus, status_after
from codex_actors.rollout.truncation import drop_last_n_user_turns, is_user_message

Call: TypeAlias = FunctionCall | CustomToolCall | LocalShellCall
"""An item that wants an output."""

CallOutput: TypeAlias = FunctionCallOutput | CustomToolCallOutput
"""The output of a call; a shell call takes a `FunctionCallOutput`."""

ABORTED = "aborted"
"""The output of a call that never got one. Source: `normalize.rs`, `ensure_call_outputs_present`."""

COMPACTED_USER_TOKENS = 20_000
"""How much of what the user said survives a compaction. Source: `compact.rs`, `COMPACT_USER_MESSAGE_MAX_TOKENS`."""

_CHARS_PER_TOKEN = 4


def model_history(items: Iterable[RolloutItem]) -> list[ResponseItem]:
    """What the model must see: the items in order, with compactions and rollbacks applied.

    Ghost snapshots are left out, and so is every line of another type, known or not.
    """
    history: list[ResponseItem] = []
    summaries: set[str] = set()
    for item in items:
        match item:
            case ResponseItemLine(payload=payload):
                if not isinstance(payload, GhostSnapshot):
                    history.append(payload)
            case CompactedLine(payload=compacted):
                history = _compacted_history(history, compacted, summaries)
                summaries.add(compacted.message)
            case EventMsgLine(payload=ThreadRolledBack(num_turns=num_turns)):
                history = drop_last_n_user_turns(history, num_turns)
            case _:
                pass
    return history


def replayed_items(items: Sequence[RolloutItem]) -> Replayed:
    """All that a thread needs to go on with these lines."""
    return Replayed(
        meta=session_meta(items),
        history=tuple(model_history(items)),
        usage=last_token_usage(items),
        is_counted=is_counted(items),
        status=last_status(items),
        context=last_turn_context(items),
        pending=tuple(pending_inputs(items)),
        summaries=frozenset(item.payload.message for item in items if isinstance(item, CompactedLine)),
        events=event_messages(items),
    )


def open_calls(history: Sequence[ResponseItem]) -> list[Call]:
    """The calls that no later item answers, in order."""
    unanswered, _ = _unmatched(history)
    return list(unanswered.values())


def close_open_calls(history: Sequence[ResponseItem]) -> tuple[list[ResponseItem], list[CallOutput]]:
    """`history` as a model takes it, and the outputs that were missing from it, in order.

    In the returned history each call has exactly one output after it: a missing one, with the text `aborted`, stands
    right behind its call; an output without a call before it, or a second one, is gone. A shell call that has neither
    call id nor id cannot be answered and stays as it is.
    """
    unanswered, orphans = _unmatched(history)
    if not unanswered and not orphans:
        return list(history), []
    closed: list[ResponseItem] = []
    added: list[CallOutput] = []
    for index, item in enumerate(history):
        if index in orphans:
            continue
        closed.append(item)
        if index in unanswered:
            output = aborted_output(unanswered[index])
            closed.append(output)
            added.append(output)
    return closed, added


def aborted_output(call: Call) -> CallOutput:
    """The output that closes `call` without a result."""
    if isinstance(call, CustomToolCall):
        return CustomToolCallOutput(call_id=call.call_id, output=ABORTED)
    return FunctionCallOutput(call_id=_call_id(call) or "", output=ABORTED)


def pending_inputs(items: Iterable[RolloutItem]) -> list[InputAccepted]:
    """The inputs that were accepted and never became an item, in the order of their acceptance."""
    pending: dict[str, InputAccepted] = {}
    for item in items:
        if isinstance(item, InputAcceptedLine):
            pending.setdefault(item.payload.submission_id, item.payload)
        elif isinstance(item, ResponseItemLine) and item.submission_id is not None:
            pending.pop(item.submission_id, None)
    return list(pending.values())


def last_token_usage(items: Iterable[RolloutItem]) -> TokenUsageInfo | None:
    """The newest usage that was recorded, or None. A `token_count` that knew nothing does not count."""
    found: TokenUsageInfo | None = None
    for item in items:
        if isinstance(item, EventMsgLine) and isinstance(item.payload, TokenCount) and item.payload.info is not None:
            found = item.payload.info
    return found


def is_counted(items: Iterable[RolloutItem]) -> bool:
    """Whether the newest usage is that of the history as it is: nothing was cut from it behind that."""
    counted = False
    for item in items:
        match item:
            case EventMsgLine(payload=TokenCount(info=info)) if info is not None:
                counted = True
            case CompactedLine() | EventMsgLine(payload=ThreadRolledBack()):
                counted = False
            case _:
                pass
    return counted


def last_status(items: Iterable[RolloutItem]) -> AgentStatus:
    """How the newest turn ended: `completed`, `interrupted` (also one that was cut, or failed: neither leaves a line), or
    `pending_init` where there was none.

    A turn has completed when the usage of a response without calls was recorded, or by its `task_complete`.
    """
    status, text, is_answered, has_calls = AgentStatus.PENDING_INIT, None, False, False
    for item in items:
        match item:
            case ResponseItemLine(payload=Message(role="assistant") as message):
                text, is_answered = message.text, True
            case ResponseItemLine(payload=payload) if is_user_message(payload):
                status, text, is_answered, has_calls = AgentStatus.INTERRUPTED, None, False, False
            case ResponseItemLine(payload=FunctionCall() | CustomToolCall() | LocalShellCall()):
                has_calls = True  # before or behind what it says
            case EventMsgLine(payload=TokenCount()):
                if is_answered and not has_calls:
                    status = AgentStatus.completed(text)
                is_answered = has_calls = False
            case EventMsgLine(payload=TaskComplete() | TurnAborted() as end):
                status = status_after(end) or status
            case _:
                pass
    return status


def session_meta(items: Iterable[RolloutItem]) -> SessionMeta | None:
    """The first meta: it is the file's own. A fork may hold its source's further down."""
    return next((item.payload for item in items if isinstance(item, SessionMetaLine)), None)


def last_turn_context(items: Iterable[RolloutItem]) -> TurnContextItem | None:
    """The settings of the newest turn, or None."""
    found: TurnContextItem | None = None
    for item in items:
        if isinstance(item, TurnContextLine):
            found = item.payload
    return found


def event_messages(items: Iterable[RolloutItem]) -> tuple[EventMsg, ...] | None:
    """The recorded events, in order; None where there is no line at all (a new thread).

    Source: `InitialHistory::get_event_msgs`.
    """
    lines = tuple(items)
    return tuple(item.payload for item in lines if isinstance(item, EventMsgLine)) if lines else None


def _compacted_history(
    history: Sequence[ResponseItem], compacted: Compacted, summaries: set[str]
) -> list[ResponseItem]:
    """The history right after a `compacted` line. `summaries` are the texts of earlier ones: no user said them."""
    if compacted.replacement_history is not None:
        return [item for item in compacted.replacement_history if not isinstance(item, GhostSnapshot)]
    prefix, rest = summary_prefix(history)
    return summarized(prefix, rest, compacted.message or "(no summary available)", summaries)


def summary_prefix(history: Iterable[ResponseItem]) -> tuple[list[ResponseItem], Iterator[ResponseItem]]:
    """The messages before the first that a user said, but for the model's; and that one with all behind it."""
    prefix: list[ResponseItem] = []
    items = iter(history)
    for item in items:
        if is_user_message(item):
            return prefix, chain((item,), items)
        if isinstance(item, Message) and item.role != "assistant":
            prefix.append(item)
    return prefix, items


def summarized(
    prefix: Sequence[ResponseItem], history: Iterable[ResponseItem], summary: str, summaries: Collection[str]
) -> list[ResponseItem]:
    """`prefix`, what the user said last in `history` (at most `COMPACTED_USER_TOKENS`), and the summary as a user message.

    `summaries` are the texts of earlier ones: no user said them.
    """
    said: deque[str] = deque()
    tokens = 0
    for item in history:
        if isinstance(item, Message) and is_user_message(item) and (text := item.text) not in summaries:
            said.append(text)
            tokens += _tokens(text)
            # Not more than can be kept: what stands before never is.
            while said and tokens - _tokens(said[0]) >= COMPACTED_USER_TOKENS:
                tokens -= _tokens(said.popleft())
    kept = _newest_texts(said, COMPACTED_USER_TOKENS)
    return [*prefix, *(_user_text(text) for text in (*kept, summary))]


def _newest_texts(texts: Sequence[str], max_tokens: int) -> list[str]:
    """The last of `texts` that fit into `max_tokens`, in order; the one on the border loses its middle."""
    kept: deque[str] = deque()
    left = max_tokens
    for text in reversed(texts):
        if left == 0:
            break
        tokens = _tokens(text)
        kept.appendleft(text if tokens <= left else _without_middle(text, left))
        left = max(0, left - tokens)
    return list(kept)


def _tokens(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)


def _without_middle(text: str, max_tokens: int) -> str:
    half = max_tokens * _CHARS_PER_TOKEN // 2
    dropped = -(-(len(text) - 2 * half) // _CHARS_PER_TOKEN)
    return f"{text[:half]}…{dropped} tokens truncated…{text[-half:]}"


def _user_text(text: str) -> Message:
    return Message(role="user", content=(InputText(text=text),))


def _unmatched(history: Sequence[ResponseItem]) -> tuple[dict[int, Call], set[int]]:
    """The indexes of the calls without an output (with the call), and of the outputs without a call.

    An output answers the oldest open call of its kind and call id before it, so a call id may come again.
    """
    unanswered: dict[int, Call] = {}
    waiting: dict[tuple[bool, str], deque[int]] = {}
    orphans: set[int] = set()
    for index, item in enumerate(history):
        # No `isinstance`: pydantic's is slow to say no.
        if type(item) is FunctionCallOutput or type(item) is CustomToolCallOutput:
            calls = waiting.get((type(item) is CustomToolCallOutput, item.call_id))
            if calls:
                del unanswered[calls.popleft()]
            else:
                orphans.add(index)
        elif type(item) is FunctionCall or type(item) is CustomToolCall or type(item) is LocalShellCall:
            call_id = _call_id(item)
            if call_id is not None:
                waiting.setdefault((type(item) is CustomToolCall, call_id), deque()).append(index)
                unanswered[index] = item
    return unanswered, orphans


def _call_id(call: Call) -> str | None:
    """How an output names `call`. Only a shell call may lack a call id; then its item id stands in, or nothing does."""
    return call.id if call.call_id is None else call.call_id
