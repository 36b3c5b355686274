"""What a host may choose: `Config` for one thread, `ManagerConfig` for the runtime. Tools are typed by a Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.ops import APPROVAL_POLICIES, ApprovalPolicy, Summary

Durability: TypeAlias = Literal["memory", "flush", "fsync"]
"""When what a thread says becomes visible: at once (written as soon as the writer gets to it), when its line is in the
kernel (survives the death of the process), or when its line is on the disk (survives the machine)."""

SingleWriter: TypeAlias = Literal["locked", "trust"]
"""How two writers of one thread are kept apart: by locks, which the folder has to have, or by you."""


@runtime_checkable
class ToolLike(Protocol):
    """What `Config.tools` holds: what the model is told of a tool, and a call. `@tool` makes one of a function.

    `parameters` is the JSON schema of the arguments, an object. `is_async` says where `call` runs: True on the manager's
    loop, False on an OS thread of its own. Of the calls of one response, those where `is_read_only` run beside each other,
    any other alone. `timeout_s` is the tool's own deadline for one call; None takes `ManagerConfig.tool_timeout_s`.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    @property
    def is_async(self) -> bool: ...

    @property
    def is_read_only(self) -> bool: ...

    @property
    def timeout_s(self) -> float | None: ...

    def call(self, arguments: str, context: Any) -> Any:
        """The value, or where `is_async` an awaitable of it, for the model's `arguments` (a JSON string).

        `context` is the call's `tools.tool.ToolContext`. What it raises becomes the output that the model reads.
        """
        ...


@dataclass(frozen=True, slots=True)
class Config:
    """One thread's settings; a child or fork gets its own.

    Attributes:
        model: The slug asked of the model provider; None takes the provider's default.
        cwd: What the model is told it works in; absolute. None means the process's at the start of the thread.
        base_instructions: The system prompt; None takes none.
        developer_instructions: A developer message in front of the first input; None sends none.
        user_instructions: AGENTS.md text in front of the first input; None sends none.
        tools: What the model may call, by unique name.
        ephemeral: True keeps nothing of this thread on disk.
        max_agents: Agents at work at once in the tree whose root has this config; 0 allows none.
        max_depth: How deep children may nest below that root; 0 allows none.
        reasoning_effort: How long the model is to think; None leaves it to its server.
        reasoning_summary: How it is to sum up its reasoning: `auto`, `concise`, `detailed` or `none`.
        verbosity: `low`, `medium` or `high`; None leaves it to the server.
        model_context_window: Tokens that the model can read; None where it is not known.
        auto_compact_token_limit: The history is replaced by a summary when it has so many tokens. None takes 90 % of
            `model_context_window`; without that, only a request that the server refuses as too long does it.
        compact_prompt: What asks the model for the summary; None takes the runtime's.
        approval_policy: When a tool asks before it acts: `untrusted` (unless what it does is known to be harmless),
            `on-request` (when the model asks for it) or `never`. A child's is at least as strict as its parent's.
        sandbox_policy: Recorded, and true: nothing is sandboxed.
    """

    model: str | None = None
    cwd: Path | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    user_instructions: str | None = None
    tools: tuple[ToolLike, ...] = ()
    ephemeral: bool = False
    max_agents: int = 64
    max_depth: int = 4
    reasoning_effort: str | None = None
    reasoning_summary: Summary = "auto"
    verbosity: Literal["low", "medium", "high"] | None = None
    model_context_window: int | None = None
    auto_compact_token_limit: int | None = None
    compact_prompt: str | None = None
    approval_policy: ApprovalPolicy = "never"
    sandbox_policy: Literal["danger-full-access"] = "danger-full-access"

    def __post_init__(self) -> None:
        _check_config(self)


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """The runtime's settings. Times are in seconds; every wait in the runtime has one of them as its end.

    Attributes:
        durability: See `Durability`.
        single_writer: See `SingleWriter`.
        ask_timeout_s: What the runtime itself answers (start, get, submit accepted, remove).
        turn_timeout_s: One turn.
        tool_timeout_s: One tool call, unless the tool has a deadline of its own.
        approval_timeout_s: A request for approval that is not answered within it is denied.
        tool_output_bytes: What the model reads of one output; of a larger one the middle is left out.
        load_timeout_s: Reading one rollout.
        close_timeout_s: Leaving the `with`: running turns are interrupted and given this long to end.
        degraded_timeout_s: Replies that wait for a rollout which cannot be written fail after this long; its lines wait on.
        block_warning_s: A loop that has not come round for this long is named in a `warning`; 0 turns the watch off.
        clock: Time, ids and randomness (`runtime.clock.Clock`); None is the system's.
    """

    durability: Durability = "flush"
    ask_timeout_s: float = 30.0
    turn_timeout_s: float = 3600.0
    tool_timeout_s: float = 600.0
    approval_timeout_s: float = 300.0
    tool_output_bytes: int = 40_000
    load_timeout_s: float = 300.0
    close_timeout_s: float = 10.0
    degraded_timeout_s: float = 30.0
    block_warning_s: float = 0.1
    clock: Any = None
    single_writer: SingleWriter = "locked"

    def __post_init__(self) -> None:
        if self.durability not in ("memory", "flush", "fsync"):
            raise InvalidRequest(f"ManagerConfig.durability: {self.durability!r} is not memory, flush or fsync")
        if self.single_writer not in ("locked", "trust"):
            raise InvalidRequest(f"ManagerConfig.single_writer: {self.single_writer!r} is not locked or trust")
        for name in _TIMEOUTS:
            value = getattr(self, name)
            if not is_seconds(value):
                raise InvalidRequest(f"ManagerConfig.{name}: {value!r} is not a number of seconds above 0")
        size = self.tool_output_bytes
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidRequest(f"ManagerConfig.tool_output_bytes: {size!r} is not a whole number of bytes above 0")
        lacks = [name for name in _CLOCK if self.clock is not None and not callable(getattr(self.clock, name, None))]
        if lacks:
            raise InvalidRequest(f"ManagerConfig.clock: {self.clock!r} is not a runtime.clock.Clock (no {lacks[0]}())")
        if not isinstance(self.block_warning_s, int | float) or self.block_warning_s < 0:
            raise InvalidRequest(f"ManagerConfig.block_warning_s: {self.block_warning_s!r} is below 0")


def is_seconds(value: object) -> bool:
    """Whether it can be a deadline: a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


_CLOCK = ("now", "now_s", "passed_s", "pick", "random_bytes", "timestamp", "uuid7")


_TIMEOUTS = (
    "ask_timeout_s",
    "turn_timeout_s",
    "tool_timeout_s",
    "approval_timeout_s",
    "load_timeout_s",
    "close_timeout_s",
    "degraded_timeout_s",
)
_TEXTS = (
    "model",
    "base_instructions",
    "developer_instructions",
    "user_instructions",
    "compact_prompt",
    "reasoning_effort",
)
_WORDS = {
    "approval_policy": APPROVAL_POLICIES,
    "sandbox_policy": ("danger-full-access",),
    "reasoning_summary": get_args(Summary),
    "verbosity": (None, "low", "medium", "high"),
}


def _check_config(config: Config) -> None:
    for name in _TEXTS:
        value = getattr(config, name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"Config.{name}: {value!r} is not text")
    if config.cwd is not None and not (isinstance(config.cwd, Path) and config.cwd.is_absolute()):
        raise InvalidRequest(f"Config.cwd: {config.cwd!r} is not an absolute pathlib.Path")
    for name in ("max_agents", "max_depth"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidRequest(f"Config.{name}: {value!r} is not a whole number from 0")
    for name in ("model_context_window", "auto_compact_token_limit"):
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequest(f"Config.{name}: {value!r} is not a whole number of tokens above 0")
    for name, words in _WORDS.items():
        value = getattr(config, name)
        if value not in words:
            raise InvalidRequest(f"Config.{name}: {value!r} is not one of {', '.join(map(str, words))}")
    if not isinstance(config.tools, tuple):
        raise InvalidRequest(f"Config.tools: {type(config.tools).__name__} is not a tuple of tools")
    seen: set[str] = set()
    for item in config.tools:
        if not isinstance(item, ToolLike):
            raise InvalidRequest(f"Config.tools: {item!r} is not a tool; decorate the function with @tool")
        if item.name in seen:
            raise InvalidRequest(f"Config.tools: two tools are named {item.name!r}")
        if item.timeout_s is not None and not is_seconds(item.timeout_s):
            raise InvalidRequest(
                f"Config.tools: timeout_s of {item.name!r}, {item.timeout_s!r}, is not a number of seconds above 0"
            )
        seen.add(item.name)
