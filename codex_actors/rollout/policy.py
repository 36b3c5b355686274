"""Which events stand in a rollout.

Source: `codex-rs/core/src/rollout/policy.rs`, `should_persist_event_msg`, in its seed-era form: what both Codex
versions read, and no more. Items, settings and compactions are always kept.
"""

from __future__ import annotations

from codex_actors.protocol.events import EventMsg

_PERSISTED = frozenset(
    {
        "user_message",
        "agent_message",
        "agent_reasoning",
        "agent_reasoning_raw_content",
        "token_count",
        "context_compacted",
        "entered_review_mode",
        "exited_review_mode",
        "thread_rolled_back",
        "undo_completed",
        "turn_aborted",
    }
)


def is_persisted(msg: EventMsg) -> bool:
    """Whether `msg` gets an `event_msg` line."""
    return msg.type in _PERSISTED
