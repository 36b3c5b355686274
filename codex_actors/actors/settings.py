"""The settings of a thread, and how its clients change them: its next turn has them, a running one keeps its own.

Source: `codex-rs/core/src/codex.rs`, `SessionSettingsUpdate` and `SessionConfiguration::apply`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_actors.actors import messages
from codex_actors.protocol.ops import APPROVAL_POLICIES, ApprovalPolicy, Settings

if TYPE_CHECKING:
    from codex_actors.actors.thread import ThreadActor


def stricter(one: ApprovalPolicy, other: ApprovalPolicy) -> ApprovalPolicy:
    """Whichever of two policies asks more often."""
    return min(one, other, key=APPROVAL_POLICIES.index)


def apply_settings(actor: ThreadActor, settings: Settings) -> None:
    """Make the settings that are given the thread's."""
    changes: dict[str, Any] = {}
    if settings.cwd is not None:
        actor.cwd = changes["cwd"] = Path(settings.cwd)
        actor.has_new_context = True
    if settings.model is not None:
        actor.model = changes["model"] = settings.model
    if settings.approval_policy is not None:
        actor.own_policy = changes["approval_policy"] = settings.approval_policy
    if "effort" in settings.model_fields_set:
        changes["reasoning_effort"] = settings.effort
    if settings.summary is not None:
        changes["reasoning_summary"] = settings.summary
    if changes:
        actor.config = replace(actor.config, **changes)
    if settings.approval_policy is not None:
        hold_policy(actor)


def hold_policy(actor: ThreadActor) -> None:
    """Hold the thread's policy to its parent's, and have its agents held to its own."""
    policy = stricter(actor.own_policy, actor.parent_policy)
    if policy != actor.config.approval_policy:
        actor.config = replace(actor.config, approval_policy=policy)
    actor.control.tell(messages.PolicyChanged(actor.thread_id, policy, actor.control))
