from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codex_actors import CodexThread, Config, ManagerConfig, ScriptedModel, ThreadManager, UserInput, tool
from codex_actors.errors import ExpectedTurnMismatch, InvalidRequest, NoActiveTurn
from codex_actors.model.provider import Prompt
from codex_actors.protocol.history import SubAgentSource
from codex_actors.protocol.items import FunctionCall, Message
from codex_actors.protocol.ops import Compact, OverrideTurnContext, UserTurn
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.runtime.clock import Clock
from codex_actors.tools.tool import ToolContext

WAIT_S = 10.0


@tool
def policy_and_cwd(context: ToolContext) -> str:
    assert context.config is not None
    return f"{context.config.approval_policy} {context.cwd}"


CALL = FunctionCall(name="policy_and_cwd", arguments="{}", call_id="c1")


def settings_of(thread: CodexThread) -> dict[str, Any]:
    """The newest `turn_context` of its rollout."""
    assert thread.rollout_path is not None
    lines = [json.loads(line) for line in thread.rollout_path.read_text().splitlines()]
    context: dict[str, Any] = [line["payload"] for line in lines if line["type"] == "turn_context"][-1]
    return context


def environments(prompt: Prompt) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text.split("<cwd>")[1].split("</cwd>")[0] for text in texts if "<cwd>" in text]


def test_override_counts_from_the_next_turn_on(tmp_path: Path) -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(model="small", cwd=Path("/"))).get().thread
        thread.run("one").get(timeout=WAIT_S)
        override = OverrideTurnContext(
            cwd=str(tmp_path), model="large", effort="high", summary="concise", approval_policy="untrusted"
        )
        thread.submit(override).get(timeout=WAIT_S)
        thread.run("two").get(timeout=WAIT_S)
        recorded = settings_of(thread)
    prompt = model.prompts[1]
    assert (prompt.model, prompt.reasoning_effort, prompt.reasoning_summary) == ("large", "high", "concise")
    assert environments(prompt) == ["/", str(tmp_path)]
    assert {name: recorded[name] for name in ("cwd", "model", "effort", "summary", "approval_policy")} == {
        "cwd": str(tmp_path),
        "model": "large",
        "effort": "high",
        "summary": "concise",
        "approval_policy": "untrusted",
    }


def test_what_an_override_leaves_out_stays() -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(model="small", cwd=Path("/"), reasoning_effort="high")).get().thread
        thread.submit({"type": "override_turn_context", "summary": "detailed"}).get(timeout=WAIT_S)
        thread.run("one").get(timeout=WAIT_S)
        thread.submit({"type": "override_turn_context", "effort": None}).get(timeout=WAIT_S)
        thread.run("two").get(timeout=WAIT_S)
    assert [(p.model, p.reasoning_effort, p.reasoning_summary) for p in model.prompts] == [
        ("small", "high", "detailed"),
        ("small", None, "detailed"),
    ]


def test_user_turn_brings_its_settings_along() -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(model="small")).get().thread
        turn = UserTurn("hi", cwd="/", model="large", effort="low")
        with thread.events() as stream:
            thread.submit(turn).get(timeout=WAIT_S)
            while (event := stream.next_blocking(WAIT_S)) is not None and event.msg.type != "task_complete":
                pass
        thread.run("again").get(timeout=WAIT_S)
    assert [(p.model, p.reasoning_effort) for p in model.prompts] == [("large", "low")] * 2


def test_settings_of_a_running_turn_do_not_change() -> None:
    model = ScriptedModel([[CALL], "done", "later"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(model="small", cwd=Path("/"), tools=(policy_and_cwd,))).get().thread
        running = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        thread.submit(OverrideTurnContext(cwd="/tmp", model="large", approval_policy="untrusted")).get(timeout=WAIT_S)
        gate.open()
        output = running.get(timeout=WAIT_S).items[1]
        thread.run("second").get(timeout=WAIT_S)
    assert output.output == "never /"  # type: ignore[union-attr]
    assert [prompt.model for prompt in model.prompts] == ["small", "small", "large"]


@pytest.mark.parametrize(
    ("op", "names"),
    [
        ({"type": "override_turn_context", "sandbox_policy": {"type": "read-only"}}, "nothing is sandboxed"),
        ({"type": "override_turn_context", "cwd": "relative"}, "cwd"),
        ({"type": "user_turn", "items": [{"type": "text", "text": "x"}], "summary": "long"}, "summary"),
    ],
)
def test_wrong_setting_is_refused_and_changes_nothing(op: dict[str, Any], names: str) -> None:
    model = ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        with pytest.raises(InvalidRequest, match=names):
            thread.submit(op)
        thread.run("hi").get(timeout=WAIT_S)
    assert model.requests == 1


def policy_of(manager: ThreadManager, thread: CodexThread) -> str:
    """What its next turn goes by."""
    thread.run("which policy?").get(timeout=WAIT_S)
    return str(settings_of(thread)["approval_policy"])


def child_of(manager: ThreadManager, parent: CodexThread, config: Config) -> CodexThread:
    source = SubAgentSource(parent_thread_id=parent.thread_id, depth=1)
    child_id = manager.agent_control().spawn_agent(config, "begin", source=source).get(timeout=WAIT_S)
    return manager.get_thread(child_id).get(timeout=WAIT_S)


def test_policy_of_child_is_no_looser_than_its_parents() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        parent = manager.start_thread(Config(approval_policy="on-request")).get().thread
        loose = child_of(manager, parent, Config(approval_policy="never"))
        strict = child_of(manager, parent, Config(approval_policy="untrusted"))
        assert loose.session_configured.approval_policy == "on-request"
        assert policy_of(manager, loose) == "on-request"
        assert policy_of(manager, strict) == "untrusted"
        loose.submit(OverrideTurnContext(approval_policy="never")).get(timeout=WAIT_S)
        assert policy_of(manager, loose) == "on-request"


def test_stricter_parent_holds_its_whole_tree() -> None:
    with ThreadManager.for_testing(ScriptedModel()) as manager:
        parent = manager.start_thread(Config()).get().thread
        child = child_of(manager, parent, Config())
        grandchild = child_of(manager, child, Config())
        parent.submit(OverrideTurnContext(approval_policy="untrusted")).get(timeout=WAIT_S)
        assert policy_of(manager, child) == "untrusted"
        assert policy_of(manager, grandchild) == "untrusted"
        parent.submit(OverrideTurnContext(approval_policy="never")).get(timeout=WAIT_S)
        assert policy_of(manager, child) == "never"
        assert policy_of(manager, grandchild) == "never"


class LastFirst(Clock):
    """Serves the actor that waits shortest."""

    def pick(self, ready: int) -> int:
        return ready - 1


def test_agent_born_beside_its_parent_is_held_to_it(tmp_path: Path) -> None:
    with ThreadManager(tmp_path) as manager:
        parent = manager.start_thread(Config()).get().thread
        parent.run("begin").get(timeout=WAIT_S)
        paths = [parent.rollout_path, child_of(manager, parent, Config()).rollout_path]
    histories = [get_rollout_history(path) for path in paths if path is not None]
    with ThreadManager(tmp_path, config=ManagerConfig(clock=LastFirst())) as manager:
        strict = manager.resume_thread_with_history(Config(approval_policy="untrusted"), histories[0])
        child = manager.resume_thread_with_history(Config(), histories[1]).get(timeout=WAIT_S).thread
        strict.get(timeout=WAIT_S)
        assert policy_of(manager, child) == "untrusted"


def test_steer_joins_the_turn_that_runs() -> None:
    model = ScriptedModel([[CALL], "done"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config(tools=(policy_and_cwd,))).get().thread
        turn_id = thread.submit(UserInput("first")).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        assert thread.steer("second").get(timeout=WAIT_S) == turn_id
        assert thread.steer("third", expected_turn_id=turn_id).get(timeout=WAIT_S) == turn_id
        running = thread.run("fourth")
        gate.open()
        running.get(timeout=WAIT_S)
    texts = [item.text for item in model.prompts[1].input if isinstance(item, Message)]
    assert texts[1:] == ["first", "second", "third", "fourth"]


def test_steer_of_another_turn_takes_nothing_in() -> None:
    model = ScriptedModel(["one", "two"], keep_prompts=True)
    gate = model.hold()
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        running = thread.run("first")
        assert gate.reached.wait(WAIT_S)
        with pytest.raises(ExpectedTurnMismatch) as mismatch:
            thread.steer("second", expected_turn_id="another").get(timeout=WAIT_S)
        gate.open()
        turn_id = running.get(timeout=WAIT_S).turn_id
        with pytest.raises(NoActiveTurn):
            thread.steer("third").get(timeout=WAIT_S)
    assert (mismatch.value.expected, mismatch.value.actual) == ("another", turn_id)
    assert model.requests == 1


def test_compaction_takes_no_steered_input() -> None:
    model = ScriptedModel(["one", "summary"])
    with ThreadManager.for_testing(model) as manager:
        thread = manager.start_thread(Config()).get().thread
        thread.run("first").get(timeout=WAIT_S)
        gate = model.hold()
        thread.submit(Compact()).get(timeout=WAIT_S)
        assert gate.reached.wait(WAIT_S)
        with pytest.raises(NoActiveTurn):
            thread.steer("second").get(timeout=WAIT_S)
        gate.open()
