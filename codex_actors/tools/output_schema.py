"""Whether a text is JSON of a given schema. It needs the library jsonschema, which the extras `http` and `mcp` bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from codex_actors.errors import InvalidRequest, UnsupportedOperation

_TEXT_CHARS = 500


def check_output(text: str, schema: Mapping[str, Any]) -> str | None:
    """None if `text` is JSON that fits the JSON schema, else the problem in words, with its place as a JSON path.

    A `$ref` is looked up within the schema only: nothing is fetched.

    Raises:
        InvalidRequest: `schema` is not a JSON schema, or has a `$ref` that leads out of it.
        UnsupportedOperation: jsonschema is not installed.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.exceptions import best_match
        from jsonschema.validators import validator_for
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        raise UnsupportedOperation("an output schema is checked by jsonschema; install codex-actors[http]") from None
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        return f"not JSON: {error}"
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
        found = best_match(kind(schema, registry=Registry()).iter_errors(value))
    except SchemaError as error:
        raise InvalidRequest(f"output schema: {describe_mismatch(error)}") from None
    except Unresolvable as error:
        raise InvalidRequest(f"output schema: {error}, and nothing outside the schema is looked up") from None
    return None if found is None else describe_mismatch(found)


def output_problem(text: str | None, schema: Mapping[str, Any]) -> str | None:
    """Why the last message of a turn is not what was asked for, in words; None where it is. Never raises."""
    if text is None:
        return "the model said nothing"
    try:
        return check_output(text, schema)
    except (InvalidRequest, UnsupportedOperation) as error:
        return f"not checked: {error}"


def describe_mismatch(error: BaseException) -> str:
    """jsonschema's `ValidationError` or `SchemaError` in one line: `$.a[0]: problem`."""
    text = str(getattr(error, "message", error))
    shown = text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}…"
    return f"{getattr(error, 'json_path', '$')}: {shown}"
