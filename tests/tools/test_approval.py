from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codex_actors.config import Config
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.ops import ApprovalPolicy, ReviewDecision
from codex_actors.tools.approval import Act, approve
from codex_actors.tools.tool import ToolContext, ToolError

THREAD = ThreadId("0193b5b8-0000-7000-8000-000000000001")


class Watcher:
    """The road to somebody who answers each request the same way."""

    def __init__(self, decision: ReviewDecision) -> None:
        self.decision = decision
        self.requests: list[tuple[str, tuple[str, ...], str, str | None]] = []

    async def emit(self, msg: EventMsg) -> None:
        raise AssertionError(msg)

    async def ask_approval(
        self, call_id: str, command: tuple[str, ...], cwd: str, reason: str | None
    ) -> ReviewDecision:
        self.requests.append((call_id, command, cwd, reason))
        return self.decision


def context(policy: ApprovalPolicy, road: Watcher | None) -> ToolContext:
    return ToolContext(THREAD, "t1", "c1", None, Config(approval_policy=policy), Path("/home"), road)


def ask(policy: ApprovalPolicy, decision: ReviewDecision = "approved", **act: Any) -> Watcher:
    watcher = Watcher(decision)
    asyncio.run(approve(context(policy, watcher), Act(("act",), **act)))
    return watcher


@pytest.mark.parametrize(
    ("policy", "act", "is_asked"),
    [
        ("never", {"risk": "harmless"}, False),
        ("never", {"risk": "unknown"}, False),
        ("never", {"risk": "dangerous"}, False),
        ("on-request", {"risk": "harmless"}, False),
        ("on-request", {"risk": "unknown"}, False),
        ("on-request", {"risk": "dangerous"}, True),
        ("on-request", {"is_asked": True}, True),
        ("on-request", {"risk": "harmless", "is_asked": True}, True),
        ("untrusted", {"risk": "harmless"}, False),
        ("untrusted", {"risk": "unknown"}, True),
        ("untrusted", {"risk": "dangerous"}, True),
    ],
)
def test_policy_and_risk_decide_about_asking(policy: ApprovalPolicy, act: dict[str, Any], is_asked: bool) -> None:
    assert len(ask(policy, **act).requests) == is_asked


def test_request_names_call_command_place_reason() -> None:
    watcher = ask("on-request", cwd=Path("/srv"), is_asked=True, reason="to see")
    assert watcher.requests == [("c1", ("act",), "/srv", "to see")]
    assert ask("untrusted").requests == [("c1", ("act",), "/home", None)]


def test_approval_for_the_session_lets_it_pass() -> None:
    assert ask("untrusted", "approved_for_session").requests


@pytest.mark.parametrize("decision", ["denied", "abort"])
def test_other_decisions_refuse_the_act(decision: ReviewDecision) -> None:
    with pytest.raises(ToolError, match=r"\Aexec command rejected by user\Z"):
        ask("untrusted", decision)
    with pytest.raises(ToolError, match=r"\Apatch rejected by user\Z"):
        ask("untrusted", decision, name="patch")


@pytest.mark.parametrize("policy", ["never", "untrusted"])
def test_model_may_only_ask_on_request(policy: ApprovalPolicy) -> None:
    with pytest.raises(ToolError, match=f"approval policy is {policy}; reject command"):
        ask(policy, is_asked=True)


def test_act_is_denied_where_nobody_watches() -> None:
    with pytest.raises(ToolError, match="rejected by user"):
        asyncio.run(approve(context("untrusted", None), Act(("act",))))


def test_act_outside_of_any_thread_passes() -> None:
    asyncio.run(approve(ToolContext(THREAD, "t1", "c1", None), Act(("act",))))
