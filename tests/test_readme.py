from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import codex_actors
from codex_actors import Config, ManagerConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUARANTEES = README.partition("\n## Guarantees\n")[2].partition("\n## ")[0]
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL_BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)


def _tests_of_the_tree() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        # In a class, and in a state machine's `TestX = Machine.TestCase`, too.
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r"^\s*(?:async )?def (test_\w+)\(", text, re.MULTILINE))
    return found


def _table_defaults() -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", README, re.MULTILINE)
    return {name: value.strip().strip("`") for name, value in rows}


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: str(PYTHON_BLOCKS.index(block)))
def test_python_block_prints_what_it_says(block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDEVMODE": "1"}
    command = [sys.executable, str(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == re.findall(r"print\(.*\)  # (.+)$", block, re.MULTILINE)


def test_readme_has_its_python_blocks() -> None:
    assert len(PYTHON_BLOCKS) >= 6


def test_two_commands_do_all_the_set_up() -> None:
    assert len(SHELL_BLOCKS) == 2
    first, second = (block.strip() for block in SHELL_BLOCKS)
    assert "\n" not in first + second
    assert first.startswith("python3 -m venv .venv && ")
    assert second.startswith("python3 -m venv .venv && ")
    assert first.endswith("examples/review_team.py")
    assert second.endswith("-m pytest -q")


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", README))
    assert named - _tests_of_the_tree() == set()


def test_every_guarantee_names_its_test() -> None:
    rows = [line for line in GUARANTEES.splitlines() if line.startswith("| ") and not line.startswith("| what holds ")]
    assert len(rows) >= 15
    assert [row for row in rows if not re.search(r"\| (`test_\w+`(, )?)+ \|$", row)] == []


@pytest.mark.parametrize("name", codex_actors.__all__)
def test_public_name_stands_in_readme(name: str) -> None:
    assert re.search(rf"(?<!\w){name}(?!\w)", README)


@pytest.mark.parametrize("name", [field.name for field in fields(ManagerConfig)])
def test_runtime_default_in_readme_is_true(name: str) -> None:
    default = getattr(ManagerConfig(), name)
    shown = f"{default:g}" if isinstance(default, float) else json.dumps(default).replace("null", "None")
    assert _table_defaults()[name] == shown


@pytest.mark.parametrize("name", ["max_agents", "max_depth"])
def test_tree_default_in_readme_is_true(name: str) -> None:
    assert _table_defaults()[name] == str(getattr(Config(), name))


@pytest.mark.parametrize("field", [field.name for field in fields(Config)])
def test_config_field_stands_in_readme(field: str) -> None:
    assert f"`{field}`" in PROSE


def test_files_named_in_readme_exist() -> None:
    named = set(re.findall(r"`((?:examples|tests|benchmarks)/[\w/.]+)`", PROSE))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_is_ours_alone() -> None:
    assert "not affiliated with OpenAI" in README[:800]
    assert not re.search(r"/(?:work|tmp|home|root)/", README)
