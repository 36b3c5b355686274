"""Whether a tool call may act: the thread's approval policy, and the answer of whoever watches the thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from codex_actors.protocol.ops import ApprovalPolicy
from codex_actors.tools.tool import ToolContext, ToolError

Risk: TypeAlias = Literal["harmless", "unknown", "dangerous"]
"""What a tool knows of an act: it changes nothing; nothing is known of it; it looks like one that is regretted."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a tool is about to do.

    Attributes:
        command: What is shown to whoever answers, as argv; the same one counts as the same act.
        cwd: Where; None is the thread's folder.
        is_asked: The model itself wants it approved; `reason` is why.
        name: How a refusal calls it.
    """

    command: tuple[str, ...]
    cwd: Path | None = None
    risk: Risk = "unknown"
    is_asked: bool = False
    reason: str | None = None
    name: str = "exec command"


async def approve(context: ToolContext, act: Act) -> None:
    """Return if the act may be done, having asked where the thread's `approval_policy` wants that.

    `untrusted` asks unless the act is harmless, `on-request` where the model wants it or the act looks dangerous, `never`
    not at all. Runs in: async tools.

    Source: `codex-rs/core/src/exec_policy.rs`, for a thread without a sandbox. Where the model wants to be asked about an
    act under `on-request`, Codex asks only if there is a sandbox to leave; here it is asked.

    Raises:
        ToolError: it may not; the text is for the model.
    """
    policy: ApprovalPolicy = "never" if context.config is None else context.config.approval_policy
    if act.is_asked and policy != "on-request":
        # Codex's text: models know what to do about it.
        raise ToolError(
            f"approval policy is {policy}; reject command — you should not ask for escalated permissions "
            f"if the approval policy is {policy}"
        )
    if not _asks(policy, act):
        return
    decision = await context.ask_approval(act.command, cwd=act.cwd, reason=act.reason)
    if decision not in ("approved", "approved_for_session"):
        raise ToolError(f"{act.name} rejected by user")


def _asks(policy: ApprovalPolicy, act: Act) -> bool:
    match policy:
        case "never":
            return False
        case "untrusted":
            return act.risk != "harmless"
        case "on-request":
            return act.is_asked or act.risk == "dangerous"
