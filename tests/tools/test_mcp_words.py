from __future__ import annotations

import re
from typing import Any

import pytest

from codex_actors.tools.mcp_words import NAME_CHARS, read_arguments, read_result, tool_names
from codex_actors.tools.tool import ToolArgumentsError, ToolError


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("read", "mcp__s__read"),
        ("a.b/c d", "mcp__s__a_b_c_d"),
        ("ü-1", "mcp__s___-1"),
        ("x" * 56, "mcp__s__" + "x" * 56),
    ],
)
def test_name_holds_server_and_tool(tool: str, name: str) -> None:
    assert tool_names("s", [tool]) == [name]


def test_names_stay_unique_short_and_stable() -> None:
    tools = ["a.b", "a/b", "a_c", "long" * 30, "long" * 31, "", "\ud800", "\ud801"]
    names = tool_names("s" * 32, tools)
    assert len(set(names)) == len(tools)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    assert tool_names("s" * 32, tools[::-1]) == names[::-1]
    assert len(names[3]) == NAME_CHARS


@pytest.mark.parametrize(("arguments", "value"), [("", {}), ("{}", {}), ('{"a": [1, "é"]}', {"a": [1, "é"]})])
def test_arguments_are_a_json_object(arguments: str, value: Any) -> None:
    assert read_arguments("t", arguments) == value


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("[1]", r"\[1\] is not a JSON object"),
        ("7", "7 is not a JSON object"),
        ("{", "not JSON: EOF"),
        ('{"a": NaN}', "not JSON: "),
        ('{"a": "\\ud800"}', "not JSON: "),
        ("[" * 100_000, "not JSON: recursion limit"),
    ],
)
def test_other_arguments_are_refused_in_words(arguments: str, problem: str) -> None:
    with pytest.raises(ToolArgumentsError, match=f"invalid arguments for t: {problem}"):
        read_arguments("t", arguments)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}], "a\nb\n"),
        ([{"type": "image", "data": "MTIzNDU=", "mimeType": "image/png"}], "[image/png, 5 bytes]"),
        ([{"type": "audio", "data": "MTIzNA==", "mimeType": "audio/wav"}], "[audio/wav, 4 bytes]"),
        ([{"type": "image", "data": ""}], "[image, 0 bytes]"),
        ([{"type": "resource", "resource": {"uri": "f:a", "text": "in it"}}], "in it"),
        ([{"type": "resource", "resource": {"uri": "f:a", "blob": "MTIz"}}], "[f:a, 3 bytes]"),
        ([{"type": "resource_link", "uri": "f:a", "name": "A", "description": "An a."}], "[link: f:a, A, An a.]"),
        ([{"type": "hologram"}], "[content of the type 'hologram', which is not shown]"),
    ],
)
def test_each_kind_of_content_has_words(content: Any, text: str) -> None:
    assert read_result({"content": content}) == text


def test_structured_content_stands_for_its_text() -> None:
    image = {"type": "image", "data": "MTIz", "mimeType": "image/png"}
    content = [{"type": "text", "text": '{"a": 1}'}, image]
    assert read_result({"content": content, "structuredContent": {"a": "é"}}) == '{"a":"é"}\n[image/png, 3 bytes]'


@pytest.mark.parametrize(
    ("content", "text"),
    [([{"type": "text", "text": "closed"}], "closed"), ([], "the tool failed, and did not say why")],
)
def test_result_that_is_an_error_is_raised(content: Any, text: str) -> None:
    with pytest.raises(ToolError, match=f"^{text}$"):
        read_result({"content": content, "isError": True})
