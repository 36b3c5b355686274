"""What a host may choose: `Config` for one thread, `ManagerConfig` for the runtime. Tools are typed by a Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from codex_actors.errors import InvalidRequest

Durability: TypeAlias = Literal["memory", "flush", "fsync"]
"""When what a thread says becomes visible: at once (written as soon as the writer gets to it), when its line is in the
kernel (survives the death of the process), or when its line is on the disk (survives the machine)."""


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
        approval_policy, sandbox_policy: Recorded, and true: nothing asks for approval, nothing is sandboxed.
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
    approval_policy: Literal["never"] = "never"
    sandbox_policy: Literal["danger-full-access"] = "danger-full-access"

    def __post_init__(self) -> None:
        _check_config(self)


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """The runtime's settings. Times are in seconds; every wait in the runtime has one of them as its end.

    Attributes:
        durability: See `Durability`.
        ask_timeout_s: What the runtime itself answers (start, get, submit accepted, remove).
        turn_timeout_s: One turn.
        tool_timeout_s: One tool call, unless the tool has a deadline of its own.
        tool_output_bytes: What the model reads of one output; of a larger one the middle is left out.
        load_timeout_s: Reading one rollout.
        close_timeout_s: Leaving the `with`: running turns are interrupted and given this long to end.
        block_warning_s: A loop that has not come round for this long is named in a `warning`; 0 turns the watch off.
        clock: Time, ids and randomness (`runtime.clock.Clock`); None is the system's.
    """

    durability: Durability = "flush"
    ask_timeout_s: float = 30.0
    turn_timeout_s: float = 3600.0
    tool_timeout_s: float = 600.0
    tool_output_bytes: int = 40_000
    load_timeout_s: float = 300.0
    close_timeout_s: float = 10.0
    block_warning_s: float = 0.1
    clock: Any = None

    def __post_init__(self) -> None:
        if self.durability not in ("memory", "flush", "fsync"):
            raise InvalidRequest(f"ManagerConfig.durability: {self.durability!r} is not memory, flush or fsync")
        for name in ("ask_timeout_s", "turn_timeout_s", "tool_timeout_s", "load_timeout_s", "close_timeout_s"):
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


def _check_config(config: Config) -> None:
    for name in ("model", "base_instructions", "developer_instructions", "user_instructions"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"Config.{name}: {value!r} is not text")
    if config.cwd is not None and not (isinstance(config.cwd, Path) and config.cwd.is_absolute()):
        raise InvalidRequest(f"Config.cwd: {config.cwd!r} is not an absolute pathlib.Path")
    for name in ("max_agents", "max_depth"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidRequest(f"Config.{name}: {value!r} is not a whole number from 0")
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
    if config.approval_policy != "never" or config.sandbox_policy != "danger-full-access":
        raise InvalidRequest(
            "Config.approval_policy and Config.sandbox_policy only record what is true here: "
            "'never' and 'danger-full-access'"
        )
