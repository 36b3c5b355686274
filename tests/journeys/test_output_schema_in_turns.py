from __future__ import annotations

import pytest

from codex_actors import Config, ScriptedModel, ThreadManager, UserInput
from codex_actors.protocol.events import Warning

WAIT_S = 20.0
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ('{"n": 7}', None),
        ('{"n": "seven"}', "$.n: 'seven' is not of type 'integer'"),
        ("seven", "not JSON"),
        ([], "the model said nothing"),
    ],
)
def test_last_message_is_held_to_its_schema(said: str, problem: str | None) -> None:
    with ThreadManager.for_testing(ScriptedModel([said])) as manager:
        thread = manager.start_thread(Config()).get().thread
        with thread.events() as stream:
            result = thread.run(UserInput("How many?", final_output_json_schema=SCHEMA)).get(timeout=WAIT_S)
            warnings = []
            while (event := stream.next_blocking(WAIT_S)) is not None and event.msg.type != "task_complete":
                warnings += [event.msg.message] if isinstance(event.msg, Warning) else []
    assert result.error is None
    assert (result.output_problem is None) == (problem is None) == (warnings == [])
    assert problem is None or problem in (result.output_problem or "")


def test_schema_that_is_none_is_named_and_fails_no_turn() -> None:
    with ThreadManager.for_testing(ScriptedModel(['{"n": 7}'])) as manager:
        thread = manager.start_thread(Config()).get().thread
        schema = {"type": "no such type"}
        result = thread.run(UserInput("How many?", final_output_json_schema=schema)).get(timeout=WAIT_S)
    assert result.error is None
    assert "output schema" in (result.output_problem or "")
