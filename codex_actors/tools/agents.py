"""What a model may do to other agents: spawn them, give them input, wait for them, interrupt, close and list them.

All of it goes through the thread's own `AgentControl`; nothing here holds a thread.
Source: `codex-rs/core/src/tools/handlers/collab.rs`, the tools that take thread ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from codex_actors.config import Config
from codex_actors.errors import CodexError, InternalAgentDied, ThreadNotFound, UnsupportedOperation
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.status import AgentStatus, is_final
from codex_actors.runtime.reply import Reply
from codex_actors.runtime.status_watch import StatusWatch
from codex_actors.tools.tool import Tool, ToolContext, ToolError, tool

R = TypeVar("R")

MAX_WAIT_MS = 3_600_000
"""The longest wait; a longer one is cut to it, as in Codex."""


class _Control(Protocol):
    """What these tools need of an `AgentControl`."""

    def spawn_agent(self, config: Config, items_or_text: str, /) -> Reply[ThreadId]: ...
    def send_input(self, thread_id: str, items_or_text: str, /) -> Reply[str]: ...
    def interrupt_agent(self, thread_id: str, /) -> Reply[str]: ...
    def shutdown_agent(self, thread_id: str, /) -> Reply[Any]: ...
    def get_status(self, thread_id: str, /) -> Reply[AgentStatus]: ...
    def subscribe_status(self, thread_id: str, /) -> Reply[StatusWatch]: ...
    def list_agents(self) -> Reply[Sequence[Any]]: ...


def agent_tools(roles: Mapping[str, Config] | None = None) -> tuple[Tool[..., Any], ...]:
    """The tools `spawn_agent`, `send_input`, `wait_agent`, `interrupt_agent`, `close_agent` and `list_agents`.

    Args:
        roles: The settings of the agents that a model may spawn, by the word that it gives as `agent_type`. Without that
            word an agent gets the settings of the thread that spawns it.
    """
    agents = _Agents(dict(roles or {}))
    types = f" `agent_type` is one of: {', '.join(agents.roles)}." if agents.roles else ""
    spawn = str(_Agents.spawn_agent.__doc__).strip() + types
    return (
        tool(description=spawn)(agents.spawn_agent),
        tool(agents.send_input),
        # It has a time limit of its own, which must come first.
        tool(read_only=True, timeout_s=MAX_WAIT_MS / 1000 + 60)(agents.wait_agent),
        tool(agents.interrupt_agent),
        tool(agents.close_agent),
        tool(read_only=True)(agents.list_agents),
    )


@dataclass(frozen=True)
class _Agents:
    roles: Mapping[str, Config]

    async def spawn_agent(self, context: ToolContext, message: str, agent_type: str | None = None) -> dict[str, Any]:
        """Start an agent on a task of its own and return its id at once; it works beside you. `message` is all that it
        knows of its task. When it has finished you are told; `wait_agent` waits for that."""
        control, text = _control(context), _text(message)
        config = context.config if agent_type is None else self.roles.get(agent_type)
        if config is None:
            raise ToolError(f"unknown agent_type {agent_type!r}; there are: {', '.join(self.roles) or 'none'}")
        return {"agent_id": await _ask(lambda: control.spawn_agent(config, text))}

    async def send_input(
        self, context: ToolContext, target: str, message: str, interrupt: bool = False
    ) -> dict[str, Any]:
        """Give an agent more input: it joins the turn that runs, or begins a new one. `interrupt` ends that turn first."""
        control, agent_id, text = _control(context), _id(target), _text(message)
        if interrupt:
            await self.interrupt_agent(context, target)
        return {"submission_id": await _ask(lambda: control.send_input(agent_id, text), agent_id)}

    async def wait_agent(
        self, context: ToolContext, targets: list[str], mode: Literal["any", "all"] = "any", timeout_ms: int = 30_000
    ) -> dict[str, Any]:
        """Wait until any or all of the agents have nothing more to do, and return the status of each of them: what it said
        last, under `completed`, or why it failed. `timed_out` says whether that took too long; the agents go on then."""
        if not targets:
            raise ToolError("agent ids must be non-empty")
        if timeout_ms <= 0:
            raise ToolError("timeout_ms must be greater than zero")
        control, agent_ids = _control(context), dict.fromkeys(map(_id, targets))
        if context.thread_id in agent_ids:
            raise ToolError("an agent cannot wait for itself")
        watches = {agent_id: await _watch(control, agent_id) for agent_id in agent_ids}
        timed_out = not await _until_final(watches, mode, min(timeout_ms, MAX_WAIT_MS) / 1000)
        return {
            "status": {agent_id: _status(watch).to_wire() for agent_id, watch in watches.items()},
            "timed_out": timed_out,
        }

    async def interrupt_agent(self, context: ToolContext, target: str) -> dict[str, Any]:
        """Abort what an agent does now. It stays, and can be given new input."""
        control, agent_id = _control(context), _id(target)
        if agent_id == context.thread_id:
            raise ToolError("an agent cannot interrupt itself")
        before = await _ask(lambda: control.get_status(agent_id), agent_id)
        await _ask(lambda: control.interrupt_agent(agent_id), agent_id)
        return {"previous_status": before.to_wire()}

    async def close_agent(self, context: ToolContext, target: str) -> dict[str, Any]:
        """End an agent, and all that it has spawned, for good."""
        control, agent_id = _control(context), _id(target)
        if agent_id == context.thread_id:
            raise ToolError("an agent cannot close itself: it ends by finishing its turn")
        before = await _ask(lambda: control.get_status(agent_id), agent_id)
        await _ask(lambda: control.shutdown_agent(agent_id), agent_id)
        return {"previous_status": before.to_wire()}

    async def list_agents(self, context: ToolContext) -> dict[str, Any]:
        """The agents of this team that have not ended, without its root."""
        return {
            "agents": [
                {
                    "agent_id": info.thread_id,
                    "parent_id": info.parent_thread_id,
                    "depth": info.depth,
                    "agent_status": info.status.to_wire(),
                }
                for info in await _ask(_control(context).list_agents)
            ]
        }


def _control(context: ToolContext) -> _Control:
    control: _Control | None = context.control
    if control is None:
        raise ToolError("collab manager unavailable")
    return control


def _text(message: str) -> str:
    if not message.strip():
        raise ToolError("Empty message can't be sent to an agent")
    return message


def _id(target: str) -> ThreadId:
    """The id as the runtime spells it, however the model does."""
    try:
        return ThreadId(target)
    except ValueError:
        raise ToolError(f"invalid agent id `{target}`: it is not a UUID") from None


async def _ask(call: Callable[[], Awaitable[R]], target: str = "") -> R:
    """The answer; a failure, also one of the call itself, in words for the model (Codex's, where it has the case)."""
    try:
        return await call()
    except ThreadNotFound as error:
        raise ToolError(f"agent with id `{error.thread_id}` not found") from None
    except InternalAgentDied:
        raise ToolError(f"agent with id `{target}` is closed") from None
    except UnsupportedOperation:
        raise ToolError("collab manager unavailable") from None
    except CodexError as error:
        raise ToolError(str(error)) from None


async def _watch(control: _Control, agent_id: ThreadId) -> StatusWatch | None:
    """None for an agent that is not there."""

    async def watch() -> StatusWatch | None:
        try:
            return await control.subscribe_status(agent_id)
        except ThreadNotFound:
            return None

    return await _ask(watch, agent_id)


def _status(watch: StatusWatch | None) -> AgentStatus:
    return AgentStatus.NOT_FOUND if watch is None else watch.status


async def _until_final(watches: Mapping[ThreadId, StatusWatch | None], mode: str, timeout_s: float) -> bool:
    """Whether it came to that in time. An agent that is not there, or ends, has nothing more to do."""
    waiting = [watch for watch in watches.values() if watch is not None and not is_final(watch.status)]
    if not waiting or (mode == "any" and len(waiting) < len(watches)):
        return True
    tasks = {asyncio.ensure_future(_final(watch)) for watch in waiting}
    when = asyncio.ALL_COMPLETED if mode == "all" else asyncio.FIRST_COMPLETED
    try:
        done, pending = await asyncio.wait(tasks, timeout=timeout_s, return_when=when)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done) if mode == "any" else not pending


async def _final(watch: StatusWatch) -> None:
    try:
        # Input that came too late for a turn begins the next one as that ends.
        while not is_final(watch.status):
            await watch.until(is_final)
    except InternalAgentDied:
        return
