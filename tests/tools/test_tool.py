from __future__ import annotations

import asyncio
import copy
import inspect
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from codex_actors.config import Config, ToolLike
from codex_actors.errors import InvalidRequest
from codex_actors.protocol.ids import ThreadId
from codex_actors.tools.tool import (
    Tool,
    ToolArgumentsError,
    ToolContext,
    ToolError,
    spec,
    tool,
)

CONTEXT = ToolContext(ThreadId("0193b5b8-0000-7000-8000-000000000000"), "1", "c1", None)


class Point(BaseModel):
    x: int
    title: str = ""


class Colour(StrEnum):
    RED = "red"


@dataclass
class Pair:
    left: int
    right: Path


@tool
def add(a: int, b: Annotated[int, Field(description="to add", ge=0)] = 1) -> int:
    """Add two numbers.

    They may be negative.
    """
    return a + b


@tool(name="greet-later", description="Says hello.")
async def greet(name: str) -> str:
    await asyncio.sleep(0)
    return f"hello {name}"


@tool
def whose(context: ToolContext, word: str, again: ToolContext | None = None) -> str:
    return f"{word} {context.call_id} {again is context}"


@tool
def odd_names(
    _x: int, json: str, model_config: float = Field(2.0, ge=1), *, copy: Literal["a", "b"] = "a"
) -> list[Any]:
    return [_x, json, model_config, copy]


@tool
def positional(a: int, /, b: list[int] = []) -> tuple[int, list[int]]:  # noqa: B006
    return a, b


def plain(a: int) -> int:
    return a


wrapped = tool(name="other", read_only=True, timeout_s=3)(plain)


def test_tool_still_is_its_function() -> None:
    assert add(2, b=3) == 5
    assert asyncio.run(greet("you")) == "hello you"
    assert inspect.unwrap(add) is add.function
    assert list(inspect.signature(add).parameters) == ["a", "b"]


def test_spec_is_the_wire_json() -> None:
    assert spec(add) == {
        "type": "function",
        "name": "add",
        "description": "Add two numbers.\n\nThey may be negative.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "minimum": 0, "default": 1, "description": "to add"},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
        "strict": False,
    }
    assert json.loads(json.dumps(spec(add))) == spec(add)


def test_name_and_description_can_be_given() -> None:
    assert (greet.name, greet.description, greet.is_async) == ("greet-later", "Says hello.", True)
    assert (add.name, add.is_async) == ("add", False)
    assert whose.description == ""


def test_tool_may_read_only_and_have_a_deadline() -> None:
    quick = tool(read_only=True, timeout_s=2.5)(plain)
    assert (quick.is_read_only, quick.timeout_s) == (True, 2.5)
    assert (add.is_read_only, add.timeout_s) == (False, None)


@pytest.mark.parametrize("timeout_s", [0, -1, "3", True, math.nan])
def test_unfit_deadlines_are_refused(timeout_s: Any) -> None:
    with pytest.raises(TypeError, match=r"tool plain: timeout_s=.* is not a number of seconds above 0"):
        tool(timeout_s=timeout_s)(plain)


def test_call_validates_and_calls() -> None:
    assert add.call('{"a": 1, "b": 2}', CONTEXT) == 3
    assert add.call('{"a": "1"}', CONTEXT) == 2
    assert asyncio.run(greet.call('{"name": "you"}', CONTEXT)) == "hello you"


def test_empty_arguments_stand_for_an_empty_object() -> None:
    @tool
    def now() -> str:
        return "now"

    assert now.call("", CONTEXT) == "now"
    assert now.call("{}", CONTEXT) == "now"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"a": "x"}', "invalid arguments for add: a: Input should be a valid integer"),
        ('{"b": 1}', "invalid arguments for add: a: Field required"),
        ('{"a": 1, "b": -1}', "b: Input should be greater than or equal to 0"),
        ('{"a": 1, "zz": 2}', "zz: Extra inputs are not permitted"),
        ("[1]", "value: Input should be an object"),
        ("null", "value: Input should be an object"),
        ("{", "value: Invalid JSON"),
        ("", "a: Field required"),
        ('{"a": "\ud800"}', "unable to parse"),
    ],
)
def test_bad_arguments_name_the_fields(arguments: str, text: str) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        add.call(arguments, CONTEXT)
    assert text in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@given(arguments=st.text(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_arguments_break_the_check(arguments: str) -> None:
    with pytest.raises(ToolArgumentsError):
        add.call(arguments, CONTEXT)


def test_unfit_arguments_are_a_tool_error() -> None:
    with pytest.raises(ToolError, match="a: Field required"):
        add.call("{}", CONTEXT)


def test_context_is_filled_and_not_shown() -> None:
    assert list(whose.parameters["properties"]) == ["word"]
    assert whose.call('{"word": "w"}', CONTEXT) == "w c1 True"
    with pytest.raises(ToolArgumentsError, match="context: Extra inputs"):
        whose.call('{"word": "w", "context": {}}', CONTEXT)


def test_any_parameter_name_works() -> None:
    assert odd_names.call('{"_x": 1, "json": "j"}', CONTEXT) == [1, "j", 2.0, "a"]
    assert list(odd_names.parameters["properties"]) == ["_x", "json", "model_config", "copy"]
    with pytest.raises(ToolArgumentsError, match=r"_x: .*; model_config: .*; copy: "):
        odd_names.call('{"_x": "", "json": "", "model_config": 0, "copy": "c"}', CONTEXT)


def test_positional_only_parameters_are_passed() -> None:
    assert positional.call('{"a": 1, "b": [2]}', CONTEXT) == (1, [2])


def test_mutable_default_is_fresh_for_each_call() -> None:
    positional.call('{"a": 1}', CONTEXT)[1].append(7)
    assert positional.call('{"a": 1}', CONTEXT) == (1, [])


def test_structured_parameters_are_built() -> None:
    @tool
    def draw(point: Point, pairs: list[Pair], colour: Colour = Colour.RED) -> Any:
        return point, pairs, colour

    arguments = '{"point": {"x": 1}, "pairs": [{"left": 1, "right": "/a"}]}'
    assert draw.call(arguments, CONTEXT) == (Point(x=1), [Pair(1, Path("/a"))], Colour.RED)
    assert set(draw.parameters["$defs"]["Point"]["properties"]) == {"x", "title"}
    with pytest.raises(ToolArgumentsError, match=r"pairs\.0\.left"):
        draw.call('{"point": {"x": 1}, "pairs": [{"left": "x", "right": "/a"}]}', CONTEXT)


def test_methods_of_objects_can_be_tools() -> None:
    class Counter:
        count = 3

        def read(self, plus: int) -> int:
            return self.count + plus

    assert tool(Counter().read).call('{"plus": 1}', CONTEXT) == 4


def no_annotation(a) -> None:
    pass


def star(*names: str) -> None:
    pass


def star_star(**names: str) -> None:
    pass


def unknown(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def callback(a: Callable[[], int]) -> None:
    pass


def unreadable(a: Tool[Any, Any]) -> None:
    pass


def mixed(a: ToolContext | int) -> None:
    pass


def bad_limit(a: Annotated[int, Field(gt="x")]) -> None:
    pass


def yielding(a: int) -> Any:
    yield a


async def yielding_later(a: int) -> Any:
    yield a


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda a: a, "not a lambda"),
        (no_annotation, "tool no_annotation: parameter 'a' has no annotation"),
        (star, r"tool star: parameter \*names: .* has no schema"),
        (star_star, r"tool star_star: parameter \*\*names: .* has no schema"),
        (unknown, "tool unknown: an annotation cannot be read .*Nowhere"),
        (callback, "tool callback: Cannot generate a JsonSchema"),
        (unreadable, "tool unreadable: Unable to generate pydantic-core schema"),
        (mixed, r"tool mixed: parameter 'a' must be annotated ToolContext"),
        (bad_limit, "tool bad_limit: Error building"),
        (yielding, "tool yielding: .* does not yield"),
        (yielding_later, "tool yielding_later: .* does not yield"),
        (print, "a plain function, not a value of type builtin_function_or_method"),
        (Point, "a plain function, not a value of type ModelMetaclass"),
        ("add", "a plain function, not a value of type str"),
    ],
)
def test_unfit_functions_are_refused_at_decoration(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        tool(function)


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 65, 3])
def test_unfit_names_are_refused(name: Any) -> None:
    with pytest.raises(TypeError, match=r"the name .* is not 1 to 64"):
        tool(name=name)(plain)


@pytest.mark.parametrize("made", [add, greet])
def test_decorated_module_functions_pickle_by_name(made: Tool[..., Any]) -> None:
    assert pickle.loads(pickle.dumps(made)) is made
    assert copy.deepcopy(made) is made


def test_tool_beside_its_function_pickles() -> None:
    again = pickle.loads(pickle.dumps(wrapped))
    assert (again.name, again.function, again.call('{"a": 4}', CONTEXT)) == ("other", plain, 4)
    assert (again.is_read_only, again.timeout_s) == (True, 3)


def test_local_tool_does_not_pickle() -> None:
    @tool
    def local(a: int) -> int:
        return a

    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(local)


def test_config_takes_tools_and_refuses_functions() -> None:
    assert isinstance(add, ToolLike)
    assert Config(tools=(add, greet)).tools == (add, greet)
    assert repr(add) == "<Tool add>"
    with pytest.raises(InvalidRequest, match="decorate the function with @tool"):
        Config(tools=(plain,))  # type: ignore[arg-type]
