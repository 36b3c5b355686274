from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from codex_actors import Config, Prompt, ScriptedModel, ThreadId, ThreadManager
from codex_actors.errors import InvalidRequest
from codex_actors.protocol.items import FunctionCall, FunctionCallOutput, ResponseItem
from codex_actors.tools.agents import agent_tools
from codex_actors.tools.tool import ToolContext, ToolError, spec

WAIT_S = 10.0
UNKNOWN = ThreadId("0193b5b8-0000-7000-8000-000000000001")
CALLER = ThreadId("0193b5b8-0000-7000-8000-000000000002")
NAMES = ["spawn_agent", "send_input", "wait_agent", "interrupt_agent", "close_agent", "list_agents"]
TOOLS = agent_tools()
CONFIG = Config(tools=TOOLS)


def made(name: str, **arguments: Any) -> FunctionCall:
    return FunctionCall(call_id=f"call-{name}", name=name, arguments=json.dumps(arguments))


def outputs_of(*calls: FunctionCall, config: Config = CONFIG, as_self: Any = None) -> list[str]:
    """What a root thread reads for each of these calls, made one response after the other; the word `SELF` is its id."""

    def answer(prompt: Prompt) -> str | Sequence[ResponseItem]:
        if prompt.tools == () or prompt.thread_id != root.thread_id:
            return "done"
        index = sum(isinstance(item, FunctionCallOutput) for item in prompt.input)
        if index == len(calls):
            return "done"
        arguments = calls[index].arguments.replace("SELF", as_self(root.thread_id) if as_self else root.thread_id)
        return [calls[index].model_copy(update={"arguments": arguments})]

    with ThreadManager(model=ScriptedModel(answer)) as manager:
        root = manager.start_thread(config).get(timeout=WAIT_S)
        items = root.thread.run("go").get(timeout=WAIT_S).items
    return [str(item.output) for item in items if isinstance(item, FunctionCallOutput)]


# --- what the model is told ----------------------------------------------------------------------------------------


def test_tools_have_codex_names_in_order() -> None:
    assert [tool.name for tool in TOOLS] == NAMES
    assert [tool.name for tool in TOOLS if tool.is_read_only] == ["wait_agent", "list_agents"]
    assert all(tool.is_async and tool.description for tool in TOOLS)


@pytest.mark.parametrize(
    ("name", "required", "optional"),
    [
        ("spawn_agent", {"message": {"type": "string"}}, {"agent_type"}),
        ("send_input", {"target": {"type": "string"}, "message": {"type": "string"}}, {"interrupt"}),
        ("wait_agent", {"targets": {"items": {"type": "string"}, "type": "array"}}, {"mode", "timeout_ms"}),
        ("interrupt_agent", {"target": {"type": "string"}}, set()),
        ("close_agent", {"target": {"type": "string"}}, set()),
        ("list_agents", {}, set()),
    ],
)
def test_schema_names_what_is_required(name: str, required: dict[str, Any], optional: set[str]) -> None:
    parameters = spec(TOOLS[NAMES.index(name)])["parameters"]
    assert parameters.get("required", []) == list(required)
    assert {key: parameters["properties"][key] for key in required} == required
    assert set(parameters["properties"]) == required.keys() | optional
    assert parameters["additionalProperties"] is False


def test_schema_of_wait_gives_modes_and_default() -> None:
    properties = TOOLS[NAMES.index("wait_agent")].parameters["properties"]
    assert properties["mode"] == {"default": "any", "enum": ["any", "all"], "type": "string"}
    assert properties["timeout_ms"] == {"default": 30_000, "type": "integer"}


def test_description_of_spawn_lists_the_roles() -> None:
    spawn = agent_tools({"scout": Config(), "smith": Config()})[0]
    assert spawn.description.endswith(" `agent_type` is one of: scout, smith.")
    assert "one of" not in TOOLS[0].description


def test_wait_has_a_longer_deadline_than_others() -> None:
    assert [tool.name for tool in TOOLS if tool.timeout_s is not None] == ["wait_agent"]
    assert TOOLS[NAMES.index("wait_agent")].timeout_s == 3660


def test_agent_tools_come_back_from_pickle() -> None:
    roles = {"scout": Config(base_instructions="look", tools=TOOLS)}
    for tool, copy in zip(agent_tools(roles), pickle.loads(pickle.dumps(agent_tools(roles))), strict=True):
        assert spec(copy) == spec(tool)
        assert (copy.is_read_only, copy.timeout_s) == (tool.is_read_only, tool.timeout_s)
        assert copy.function.__self__.roles["scout"].base_instructions == "look"


def test_tools_stand_in_a_config_once() -> None:
    assert Config(tools=agent_tools()).tools[0].name == "spawn_agent"
    with pytest.raises(InvalidRequest, match="two tools are named 'spawn_agent'"):
        Config(tools=(*TOOLS, *TOOLS))


# --- what the model reads when it errs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (made("spawn_agent", message=" \n"), "Empty message can't be sent to an agent"),
        (made("spawn_agent", message="x", agent_type="smith"), "unknown agent_type 'smith'; there are: scout"),
        (made("send_input", target=UNKNOWN, message=""), "Empty message can't be sent to an agent"),
        (made("send_input", target="bob", message="x"), "invalid agent id `bob`: it is not a UUID"),
        (made("send_input", target=UNKNOWN, message="x"), f"agent with id `{UNKNOWN}` not found"),
        (made("send_input", target=UNKNOWN, message="x", interrupt=True), f"agent with id `{UNKNOWN}` not found"),
        (made("wait_agent", targets=[]), "agent ids must be non-empty"),
        (made("wait_agent", targets=[UNKNOWN], timeout_ms=0), "timeout_ms must be greater than zero"),
        (made("wait_agent", targets=[UNKNOWN], timeout_ms=-1), "timeout_ms must be greater than zero"),
        (made("wait_agent", targets=[UNKNOWN, "bob"]), "invalid agent id `bob`: it is not a UUID"),
        (made("wait_agent", targets=["SELF"]), "an agent cannot wait for itself"),
        (made("wait_agent", targets=[UNKNOWN, "SELF"]), "an agent cannot wait for itself"),
        (made("interrupt_agent", target="bob"), "invalid agent id `bob`: it is not a UUID"),
        (made("interrupt_agent", target=UNKNOWN), f"agent with id `{UNKNOWN}` not found"),
        (made("interrupt_agent", target="SELF"), "an agent cannot interrupt itself"),
        (made("send_input", target="SELF", message="x", interrupt=True), "an agent cannot interrupt itself"),
        (made("close_agent", target="bob"), "invalid agent id `bob`: it is not a UUID"),
        (made("close_agent", target=UNKNOWN), f"agent with id `{UNKNOWN}` not found"),
        (made("close_agent", target="SELF"), "an agent cannot close itself: it ends by finishing its turn"),
    ],
    ids=lambda value: value.name if isinstance(value, FunctionCall) else "",
)
def test_wrong_call_is_answered_in_words(call: FunctionCall, text: str) -> None:
    config = Config(tools=agent_tools({"scout": Config()}))
    assert outputs_of(call, config=config) == [text]
    assert outputs_of(call, config=config, as_self=str.upper) == [text]


def test_unknown_mode_is_a_problem_of_arguments() -> None:
    (output,) = outputs_of(made("wait_agent", targets=[UNKNOWN], mode="some"))
    assert output.startswith("invalid arguments for wait_agent: mode: ")


def test_wait_answers_not_found_for_unknown_agent() -> None:
    (output,) = outputs_of(made("wait_agent", targets=[UNKNOWN.upper(), UNKNOWN]))
    assert json.loads(output) == {"status": {UNKNOWN: "not_found"}, "timed_out": False}


def test_refusal_names_max_agents_used_and_hint() -> None:
    config = Config(tools=TOOLS, max_agents=0)
    (output,) = outputs_of(made("spawn_agent", message="x"), config=config)
    assert output == (
        "agent thread limit reached (max 0): 0 at work; "
        "wait for one to finish, shut one down, or raise Config.max_agents of the root"
    )


def test_refusal_names_max_depth_depth_and_hint() -> None:
    config = Config(tools=TOOLS, max_depth=0)
    (output,) = outputs_of(made("spawn_agent", message="x"), config=config)
    assert output == (
        "agent depth limit reached (max 0): the child would be at depth 1; "
        "solve the task in this thread, or raise Config.max_depth of the root"
    )


def test_list_is_empty_without_agents() -> None:
    assert [json.loads(output) for output in outputs_of(made("list_agents"))] == [{"agents": []}]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_tool_without_a_manager_says_so(tool: Any) -> None:
    closed = ThreadManager(model=ScriptedModel())
    with closed:
        control = closed.agent_control()
    arguments = {"message": "x", "target": UNKNOWN, "targets": [UNKNOWN]}
    wanted = json.dumps({name: value for name, value in arguments.items() if name in tool.parameters["properties"]})
    for missing in (None, control):
        with pytest.raises(ToolError) as caught:
            tool.call(wanted, ToolContext(CALLER, "t", "c", missing, Config())).send(None)
        assert str(caught.value) == "collab manager unavailable"
