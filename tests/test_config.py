from __future__ import annotations

import dataclasses
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from codex_actors.config import Config, ManagerConfig, ToolLike
from codex_actors.errors import InvalidRequest

HOME = Path(__file__).parent


@dataclass(frozen=True)
class Echo:
    name: str = "echo"
    description: str = "says it again"
    parameters: Any = dataclasses.field(default_factory=lambda: {"type": "object"})
    is_async: bool = False
    is_read_only: bool = False
    timeout_s: Any = None

    def call(self, arguments: str, context: Any) -> Any:
        return arguments


BAD_CONFIGS: list[tuple[str, Any]] = [
    ("model", 5),
    ("model", b"gpt"),
    ("base_instructions", ["be kind"]),
    ("developer_instructions", 1.5),
    ("user_instructions", Path("AGENTS.md")),
    ("cwd", "/tmp"),
    ("cwd", Path("relative/folder")),
    ("cwd", 7),
    ("tools", [Echo()]),
    ("tools", Echo()),
    ("tools", (len,)),
    ("tools", ("echo",)),
    ("tools", (Echo(), Echo())),
    *[("tools", (Echo(timeout_s=value),)) for value in (0, -1, "30", True, float("nan"))],
    ("max_agents", -1),
    ("max_agents", 1.0),
    ("max_agents", "64"),
    ("max_agents", True),
    ("max_agents", None),
    ("max_depth", -1),
    ("max_depth", "4"),
    ("max_depth", False),
    ("approval_policy", "on-failure"),
    ("approval_policy", None),
    ("sandbox_policy", "read-only"),
]

TIMEOUTS = [
    "ask_timeout_s",
    "turn_timeout_s",
    "tool_timeout_s",
    "approval_timeout_s",
    "load_timeout_s",
    "close_timeout_s",
    "degraded_timeout_s",
]
BAD_MANAGER_CONFIGS: list[tuple[str, Any]] = [
    ("durability", "disk"),
    ("durability", None),
    ("durability", []),
    ("single_writer", "nobody"),
    ("single_writer", None),
    *[(name, value) for name in TIMEOUTS for value in (0, -1, -0.5, "30", None, True, float("nan"))],
    *[("tool_output_bytes", value) for value in (0, -1, 1.5, "40000", None, True)],
    ("block_warning_s", -0.1),
    ("block_warning_s", "0.1"),
    ("block_warning_s", None),
    ("clock", 5),
    ("clock", object()),
]


@pytest.mark.parametrize(("field", "value"), BAD_CONFIGS)
def test_bad_value_of_config_names_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"\bConfig\.{field}\b"):
        Config(**{field: value})


@pytest.mark.parametrize(("field", "value"), BAD_MANAGER_CONFIGS)
def test_bad_value_of_manager_config_names_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"\bManagerConfig\.{field}\b"):
        ManagerConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [each for each in BAD_CONFIGS if each[0] in ("model", "cwd", "max_agents")]
)
def test_replacing_a_field_is_checked_too(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(f"Config.{field}")):
        dataclasses.replace(Config(), **{field: value})


def test_two_tools_of_one_name_are_named() -> None:
    with pytest.raises(InvalidRequest, match="two tools are named 'twice'"):
        Config(tools=(Echo("once"), Echo("twice"), Echo("twice")))


def test_plain_function_among_tools_gets_a_hint() -> None:
    with pytest.raises(InvalidRequest, match="decorate the function with @tool"):
        Config(tools=(len,))  # type: ignore[arg-type]


def test_smallest_allowed_values_are_taken() -> None:
    config = Config(max_agents=0, max_depth=0, cwd=HOME, tools=(Echo("a"), Echo("b")), model="")
    assert (config.max_agents, config.max_depth, config.cwd) == (0, 0, HOME)
    assert ManagerConfig(block_warning_s=0, ask_timeout_s=1e-9).block_warning_s == 0
    assert ManagerConfig(tool_output_bytes=1).tool_output_bytes == 1


def test_object_with_all_members_is_a_tool() -> None:
    assert isinstance(Echo(), ToolLike)
    assert not isinstance(len, ToolLike)


@pytest.mark.parametrize("config", [Config(), ManagerConfig()])
def test_config_cannot_be_changed_in_place(config: Config | ManagerConfig) -> None:
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, "other")


@pytest.mark.parametrize("config", [Config(cwd=HOME, tools=(Echo(),)), ManagerConfig(durability="fsync")])
def test_config_pickles_to_an_equal_one(config: Config | ManagerConfig) -> None:
    assert pickle.loads(pickle.dumps(config)) == config


def test_defaults_are_those_of_the_documentation() -> None:
    assert (Config().max_agents, Config().max_depth) == (64, 4)
    assert ManagerConfig() == ManagerConfig(
        durability="flush",
        single_writer="locked",
        ask_timeout_s=30,
        turn_timeout_s=3_600,
        tool_timeout_s=600,
        tool_output_bytes=40_000,
        load_timeout_s=300,
        close_timeout_s=10,
        degraded_timeout_s=30,
        block_warning_s=0.1,
    )
