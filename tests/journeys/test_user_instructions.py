from __future__ import annotations

from pathlib import Path
from typing import Any

from codex_actors import Config, ScriptedModel, ThreadManager
from codex_actors.protocol.items import Message
from codex_actors.rollout.reader import get_rollout_history
from codex_actors.rollout.truncation import user_message_positions
from codex_actors.services.project_docs import read_user_instructions

WAIT_S = 10.0


def dialogue(prompt: Any) -> list[str]:
    texts = [item.text for item in prompt.input if isinstance(item, Message)]
    return [text for text in texts if not text.startswith("<environment_context>")]


def config_of(tmp_path: Path) -> Config:
    repo, skill = tmp_path / "repo", tmp_path / "home" / "skills" / "one" / "SKILL.md"
    (repo / ".git").mkdir(parents=True)
    skill.parent.mkdir(parents=True)
    (tmp_path / "home" / "AGENTS.md").write_text("Be brief.")
    (repo / "AGENTS.md").write_text("Run the tests.")
    skill.write_text("---\nname: one\ndescription: does one\n---\n")
    skills = ThreadManager(tmp_path / "home").skills_manager.skills_for(repo).skills
    return Config(cwd=repo, user_instructions=read_user_instructions(repo, tmp_path / "home", skills=skills))


def test_documents_of_a_project_reach_the_model(tmp_path: Path) -> None:
    config, model = config_of(tmp_path), ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model) as manager:
        manager.start_thread(config).get(timeout=WAIT_S).thread.run("u1").get(timeout=WAIT_S)
    first, *rest = dialogue(model.prompts[0])
    assert first.startswith(f"# AGENTS.md instructions for {tmp_path / 'repo'}\n\n<INSTRUCTIONS>\nBe brief.\n")
    assert "\n\n--- project-doc ---\n\nRun the tests.\n\n## Skills\n" in first
    assert rest == ["u1"]


def test_documents_do_not_count_as_user_messages(tmp_path: Path) -> None:
    config, model = config_of(tmp_path), ScriptedModel(keep_prompts=True)
    with ThreadManager.for_testing(model, codex_home=tmp_path / "home") as manager:
        thread = manager.start_thread(config).get(timeout=WAIT_S).thread
        for text in ("u1", "u2"):
            thread.run(text).get(timeout=WAIT_S)
    path = thread.rollout_path
    assert path is not None
    assert len(user_message_positions(get_rollout_history(path).get_rollout_items())) == 2
    with ThreadManager.for_testing(model, codex_home=tmp_path / "home") as manager:
        resumed = manager.resume_thread_from_rollout(config, path).get(timeout=WAIT_S).thread
        resumed.run("u3").get(timeout=WAIT_S)
        fork = manager.fork_thread(1, None, path).get(timeout=WAIT_S).thread
        fork.run("other").get(timeout=WAIT_S)
    documents, *rest = dialogue(model.prompts[-2])
    assert rest == ["u1", "echo: u1", "u2", "echo: u2", "u3"]
    assert dialogue(model.prompts[-1]) == [documents, "u1", "echo: u1", "other"]
