from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from codex_actors.errors import InvalidRequest
from codex_actors.tools.output_schema import check_output

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"cities": {"type": "array", "items": {"$ref": "#/$defs/city"}}},
    "required": ["cities"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


@pytest.mark.parametrize("text", ['{"cities": []}', ' {"cities": [{"name": "Zürich"}]}\n'])
def test_output_that_fits_has_no_problem(text: str) -> None:
    assert check_output(text, SCHEMA) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        ("Here it is: {}", "not JSON: expected value at line 1 column 1"),
        ('{"cities": NaN}', "not JSON: expected value at line 1 column 12"),
        ("{}", "$: 'cities' is a required property"),
        ("[]", "$: [] is not of type 'object'"),
        ('{"cities": [{"name": "a"}, {"name": 7}]}', "$.cities[1].name: 7 is not of type 'string'"),
        ('{"cities": [], "more": 1}', "$: Additional properties are not allowed ('more' was unexpected)"),
    ],
)
def test_problem_is_said_with_its_place(text: str, problem: str) -> None:
    assert check_output(text, SCHEMA) == problem


def test_problem_with_a_huge_value_stays_short() -> None:
    problem = check_output(f'{{"cities": "{"x" * 10_000}"}}', SCHEMA)
    assert problem is not None
    assert problem.startswith("$.cities: 'xxx")
    assert len(problem) < 600


def test_draft_of_the_schema_counts() -> None:
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    assert check_output("3", schema) == "$: 3 is less than or equal to the minimum of 3"


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "objekt"}, r"output schema: \$\.type: 'objekt' is not valid"),
        ({"$ref": "https://127.0.0.1:1/a.json"}, "output schema: .*nothing outside the schema is looked up"),
        ({"$ref": "#/$defs/missing"}, "output schema: .*nothing outside the schema is looked up"),
    ],
)
def test_what_is_no_schema_is_refused(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        check_output("{}", schema)


def test_missing_library_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from codex_actors.tools.output_schema import check_output\n"
        "try:\n check_output('{}', {})\nexcept Exception as error:\n print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == (
        "unsupported operation: an output schema is checked by jsonschema; install codex-actors[http]\n"
    )
