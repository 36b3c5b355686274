"""Where user turns begin in a rollout, and how it is cut there. Pure.

Source: `codex-rs/core/src/rollout/truncation.rs`, `event_mapping.rs` (`parse_user_message`),
`context_manager/history.rs` (`drop_last_n_user_turns`), `thread_manager.rs` (`truncate_before_nth_user_message`).
"""

from __future__ import annotations

from collections.abc import Sequence

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.events import ThreadRolledBack
from codex_actors.protocol.history import EventMsgLine, Forked, InitialHistory, New, ResponseItemLine, RolloutItem
from codex_actors.protocol.items import InputText, Message, OutputText, ResponseItem

_WHOLE_MESSAGE_PREFIXES = ("# AGENTS.md instructions for ", "<user_instructions>", "<skill")
"""What a message of one text part starts with when the runtime wrote it."""

_PART_PREFIXES = ("<environment_context>", "<user_shell_command>")
"""What any text part of such a message starts with; case and leading blanks do not count."""

_PART_MARKERS = (
    ("<turn_aborted>", "</turn_aborted>"),
    ("<subagent_notification>", "</subagent_notification>"),
)
"""What encloses any text part of such a message; here both ends must be there. Source: the newest Codex."""


def is_user_message(item: ResponseItem) -> bool:
    """Whether `item` is something that a user said: a user message that is not part of the session prefix.

    A message counts whatever its parts are (`output_text` and none at all included).
    """
    if not isinstance(item, Message) or item.role != "user":
        return False
    content = item.content
    if len(content) == 1 and isinstance(content[0], InputText) and content[0].text.startswith(_WHOLE_MESSAGE_PREFIXES):
        return False
    return not any(isinstance(part, InputText | OutputText) and _is_session_text(part.text) for part in content)


def user_message_positions(items: Sequence[RolloutItem]) -> list[int]:
    """The indexes in `items` of the user messages that still count: those rolled back are left out."""
    positions: list[int] = []
    for index, item in enumerate(items):
        if isinstance(item, ResponseItemLine):
            if is_user_message(item.payload):
                positions.append(index)
        elif isinstance(item, EventMsgLine) and isinstance(item.payload, ThreadRolledBack):
            del positions[max(0, len(positions) - max(0, item.payload.num_turns)) :]
    return positions


def truncate_rollout_before_nth_user_message_from_start(
    items: Sequence[RolloutItem], n: int | None
) -> tuple[RolloutItem, ...]:
    """The lines strictly before user message `n` (from 0), with all that leads up to it; None keeps every line.

    With `n` or fewer user messages the result is empty: the seed's rule (newer Codex keeps every line then).

    Raises:
        InvalidRequest: `n` is below 0 or not a whole number.
    """
    if n is None:
        return tuple(items)
    if not isinstance(n, int) or isinstance(n, bool):
        raise InvalidRequest(f"nth_user_message: {n!r} is not a whole number from 0, or None")
    if n < 0:
        raise InvalidRequest(f"nth_user_message: {n} is below 0")
    positions = user_message_positions(items)
    return tuple(items[: positions[n]]) if n < len(positions) else ()


def truncate_before_nth_user_message(history: InitialHistory, n: int | None) -> InitialHistory:
    """`history` cut as above, for a thread with a fresh id: `Forked`, or `New` where nothing is left.

    Raises:
        InvalidRequest: `n` is below 0 or not a whole number.
    """
    kept = truncate_rollout_before_nth_user_message_from_start(history.get_rollout_items(), n)
    return Forked(kept) if kept else New()


def drop_last_n_user_turns(history: Sequence[ResponseItem], n: int) -> list[ResponseItem]:
    """A copy of `history` that ends before the `n`-th last user message.

    With `n` or fewer user messages it ends before the first, so the session prefix stays. Without any, or for `n` of 0
    or less, it is whole.
    """
    positions = [index for index, item in enumerate(history) if is_user_message(item)]
    if n <= 0 or not positions:
        return list(history)
    return list(history[: positions[max(0, len(positions) - n)]])


def _is_session_text(text: str) -> bool:
    trimmed = text.strip()
    # A marker begins with "<": most user text ends here, without a lower-case copy of it.
    if not trimmed.startswith("<"):
        return False
    lowered = trimmed.lower()
    return lowered.startswith(_PART_PREFIXES) or any(
        lowered.startswith(start) and lowered.endswith(end) for start, end in _PART_MARKERS
    )
