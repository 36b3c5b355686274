from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import codex_actors

PACKAGE_DIR = Path(codex_actors.__file__).parent

PUBLIC_NAMES = [
    "AgentControl",
    "AgentStatus",
    "CodexError",
    "CodexThread",
    "Compact",
    "Config",
    "EventStream",
    "ExecApproval",
    "ForkPoint",
    "Forked",
    "Interrupt",
    "KeptThread",
    "ManagerConfig",
    "ModelProvider",
    "New",
    "NewThread",
    "OverrideTurnContext",
    "Prompt",
    "Reply",
    "Resumed",
    "ScriptedModel",
    "SessionSource",
    "Shutdown",
    "ThreadId",
    "ThreadManager",
    "ThreadPage",
    "ThreadQuery",
    "ThreadRollback",
    "ToolContext",
    "TurnResult",
    "UserInput",
    "UserTurn",
    "tool",
]

# Slow to load, or of use to few: whoever needs one of them loads it then.
LATE_MODULES = [
    "aiohttp",
    "jsonschema",
    "mcp",
    "sqlite3",
    "yaml",
    "pytest",
    "hypothesis",
    "uvloop",
    "typer",
    "rich",
]


def docstrings_of(name: str) -> Iterator[str | None]:
    # From the source, because a dataclass without a docstring gets one, and an alias has none at run time.
    module = getattr(getattr(codex_actors, name), "__module__", "")
    inside = module.removeprefix("codex_actors").replace(".", "/").lstrip("/")
    paths = [PACKAGE_DIR / f"{inside}.py"] if inside else sorted(PACKAGE_DIR.rglob("*.py"))
    for path in paths:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if node.name == name:
                    yield ast.get_docstring(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if name in [ast.unparse(target) for target in targets]:
                    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    yield ast.unparse(after) if is_text and after else None


def without_docstring(body: list[ast.stmt], road: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        # An overload and a field that a Protocol declares are told of in the function's and the class's own docstring.
        marks = {ast.unparse(mark) for mark in node.decorator_list}
        is_declared_only = ast.unparse(node.body[-1]) == "..." and not marks.isdisjoint({"overload", "property"})
        if not ast.get_docstring(node) and not is_declared_only:
            yield f"{road}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from without_docstring(node.body, f"{road}{node.name}.")


def test_root_exports_exactly_the_public_names() -> None:
    assert codex_actors.__all__ == PUBLIC_NAMES


def test_exports_are_sorted_unique_and_few() -> None:
    assert codex_actors.__all__ == sorted(set(codex_actors.__all__))
    assert len(codex_actors.__all__) <= 40


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name_resolves_and_is_documented(name: str) -> None:
    assert any(docstrings_of(name))


@pytest.mark.parametrize("path", sorted(PACKAGE_DIR.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE_DIR)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert list(without_docstring(ast.parse(path.read_text(encoding="utf-8")).body, "")) == []


def test_missing_docstring_is_found_and_named() -> None:
    code = "class A:\n def b(self): ...\n def _c(self): ...\n @property\n def d(self): ...\nasync def e(): ..."
    assert list(without_docstring(ast.parse(code).body, "")) == ["A", "A.b", "e"]


def test_public_callables_say_where_they_live() -> None:
    homes = [getattr(getattr(codex_actors, name), "__module__", "codex_actors") for name in PUBLIC_NAMES]
    assert {home.partition(".")[0] for home in homes} == {"codex_actors"}


def test_version_stays_out_of_star_import() -> None:
    assert codex_actors.__version__
    assert "__version__" not in codex_actors.__all__


def test_fresh_import_loads_no_late_module() -> None:
    # What the interpreter itself brings (an editable install, a coverage hook) is loaded before, and does not count.
    code = (
        "import json, sys; before = set(sys.modules); import codex_actors; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE_DIR.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "codex_actors" in loaded
    assert [name for name in LATE_MODULES if name in loaded] == []
