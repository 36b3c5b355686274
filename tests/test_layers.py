from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeAlias

import pytest

PACKAGE = "codex_actors"
PACKAGE_DIR = Path(__file__).parents[1] / PACKAGE

# Lowest first; names in one row are peers, which do not import each other. "" is the package's own `__init__`.
LAYERS = (
    ("errors", "version"),
    ("protocol",),
    ("config",),
    ("rollout", "model", "runtime", "services"),
    ("tools",),
    ("context", "compaction"),
    ("turn",),
    ("actors",),
    ("manager",),
    ("",),
    ("testing", "cli"),
    ("__main__",),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

# Where a library may be imported, be it for types only. `ReplyTimeout` is a `pykka.Timeout`, hence `errors`;
# a probe is a stock pykka actor, hence `testing`.
HOMES = {
    "pykka": ("runtime", "errors", "testing"),
    "sqlite3": ("rollout.index",),
    "aiohttp": ("model.responses",),
    "httpx": ("model.responses",),
    "requests": ("model.responses",),
    "urllib3": ("model.responses",),
    "http": ("model.responses",),
    "urllib.request": ("model.responses",),
    "mcp": ("tools.mcp_session",),
    "jsonschema": ("tools.output_schema",),
    "typer": ("cli",),
    "rich": ("cli",),
}


@dataclass(frozen=True, slots=True)
class Import:
    # Module names are relative to the package (`rollout.index`); `target` keeps its full name where it is foreign.
    importer: str
    target: str
    line: int
    is_own: bool
    in_function: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer or '__init__'}:{self.line} imports {self.target or PACKAGE}"


Rule: TypeAlias = Callable[[Sequence[Import]], Iterator[str]]


def read_imports(package_dir: Path) -> list[Import]:
    paths = {_module_name(path, package_dir): path for path in sorted(package_dir.rglob("*.py"))}
    found: list[Import] = []
    for module, path in paths.items():
        # The package that a relative import starts from: the module itself if it is an `__init__`.
        is_package = path.name == "__init__.py"
        full_parts = [PACKAGE, *filter(None, module.split("."))]
        base_parts = full_parts if is_package else full_parts[:-1]
        for node, in_function, for_types_only in _import_nodes(ast.parse(path.read_text(encoding="utf-8")).body):
            for full_name in _names(node, base_parts):
                target, is_own = _resolve(full_name, paths)
                found.append(Import(module, target, node.lineno, is_own, in_function, for_types_only))
    return found


def _module_name(path: Path, package_dir: Path) -> str:
    parts = path.relative_to(package_dir).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _import_nodes(
    body: Sequence[ast.AST], in_function: bool = False, for_types_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, in_function, for_types_only
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _import_nodes(node.body, in_function, True)
            yield from _import_nodes(node.orelse, in_function, for_types_only)
        else:
            inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_nodes(list(ast.iter_child_nodes(node)), inside, for_types_only)


def _names(node: ast.Import | ast.ImportFrom, base_parts: Sequence[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    start = list(base_parts[: len(base_parts) - node.level + 1]) if node.level else []
    origin = ".".join([*start, *filter(None, [node.module])])
    yield from (f"{origin}.{alias.name}" for alias in node.names)


def _resolve(full_name: str, modules: dict[str, Path]) -> tuple[str, bool]:
    first, _, rest = full_name.partition(".")
    if first != PACKAGE:
        return full_name, False
    # `from codex_actors.rollout import reader` names a module, `... import Reader` a thing in `rollout`.
    return (rest if rest in modules else rest.rpartition(".")[0]), True


def _own(imports: Sequence[Import]) -> Iterator[tuple[Import, str, str]]:
    for each in imports:
        if each.is_own:
            yield each, each.importer.partition(".")[0], each.target.partition(".")[0]


def imports_only_what_is_below(imports: Sequence[Import]) -> Iterator[str]:
    for each, importer, target in _own(imports):
        if importer not in LEVEL or target not in LEVEL:
            yield f"{each}: {importer if importer not in LEVEL else target} stands in no layer"
        elif importer != target and LEVEL[target] >= LEVEL[importer]:
            yield f"{each}, {'its peer' if LEVEL[target] == LEVEL[importer] else 'which is above it'}"


def has_no_cycles(imports: Sequence[Import]) -> Iterator[str]:
    # Imports for types only may point back inside a package: nothing is loaded by them.
    graph: dict[str, set[str]] = {}
    for each, _, _ in _own(imports):
        if not each.for_types_only and each.importer != each.target:
            graph.setdefault(each.importer, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"a cycle: {' < '.join(error.args[1])}"


def imports_nothing_inside_functions(imports: Sequence[Import]) -> Iterator[str]:
    for each, _, _ in _own(imports):
        if each.in_function:
            yield f"{each} inside a function"


def keeps_libraries_at_home(imports: Sequence[Import]) -> Iterator[str]:
    for each in imports:
        for library, homes in HOMES.items():
            is_abroad = not any(_is_or_is_in(each.importer, home) for home in homes)
            if is_abroad and not each.is_own and _is_or_is_in(each.target, library):
                yield f"{each}, whose home is {' and '.join(homes)}"


def _is_or_is_in(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def keeps_the_thread_from_its_supervisor(imports: Sequence[Import]) -> Iterator[str]:
    for each, _, _ in _own(imports):
        if each.importer == "actors.thread" and each.target == "actors.supervisor":
            yield f"{each}: a thread knows the supervisor only by its control"


RULES: tuple[Rule, ...] = (
    imports_only_what_is_below,
    has_no_cycles,
    imports_nothing_inside_functions,
    keeps_libraries_at_home,
    keeps_the_thread_from_its_supervisor,
)


def write_package(folder: Path, files: dict[str, str]) -> Path:
    package_dir = folder / PACKAGE
    for name, text in files.items():
        path = package_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package_dir


@pytest.mark.parametrize("rule", RULES)
def test_package_keeps_each_law_of_imports(rule: Rule) -> None:
    assert list(rule(read_imports(PACKAGE_DIR))) == []


def test_every_module_stands_in_a_layer() -> None:
    names = {path.relative_to(PACKAGE_DIR).with_suffix("").parts[0] for path in PACKAGE_DIR.rglob("*.py")}
    assert names - LEVEL.keys() - {"__init__"} == set()


def test_reader_finds_imports_it_must_know() -> None:
    found = {(each.importer, each.target) for each in read_imports(PACKAGE_DIR)}
    assert {("config", "errors"), ("errors", "pykka"), ("runtime.reply", "errors"), ("", "manager")} <= found


@pytest.mark.parametrize(
    ("rule", "files", "expected"),
    [
        (
            imports_only_what_is_below,
            {"errors.py": "", "turn.py": "", "tools/shell.py": "\nfrom codex_actors.turn import run_turn\n"},
            "tools.shell:2 imports turn, which is above it",
        ),
        (
            imports_only_what_is_below,
            {"model/a.py": "from codex_actors.rollout import reader", "rollout/reader.py": ""},
            "model.a:1 imports rollout.reader, its peer",
        ),
        (
            imports_only_what_is_below,
            {"turn.py": "if TYPE_CHECKING:\n    import codex_actors.manager\n", "manager.py": ""},
            "turn:2 imports manager, which is above it",
        ),
        (
            imports_only_what_is_below,
            {"__init__.py": "", "turn.py": "from codex_actors import Config\n"},
            "turn:1 imports codex_actors, which is above it",
        ),
        (
            imports_only_what_is_below,
            {"tools/deep/a.py": "from ...manager import ThreadManager\n", "manager.py": ""},
            "tools.deep.a:1 imports manager, which is above it",
        ),
        (
            imports_only_what_is_below,
            {"helpers.py": "from . import errors\n", "errors.py": ""},
            "helpers:1 imports errors: helpers stands in no layer",
        ),
        (
            has_no_cycles,
            {"runtime/a.py": "from codex_actors.runtime import b", "runtime/b.py": "from .a import A"},
            "a cycle: runtime.",
        ),
        (
            has_no_cycles,
            {
                "runtime/a.py": "class A:\n    from .b import B",
                "runtime/b.py": "try:\n    from .a import A\nfinally: 0",
            },
            "a cycle: runtime.",
        ),
        (
            imports_nothing_inside_functions,
            {"errors.py": "", "turn.py": "class A:\n    async def f(self):\n        from codex_actors import errors\n"},
            "turn:3 imports errors inside a function",
        ),
        (
            keeps_libraries_at_home,
            {"actors/thread.py": "from pykka.messages import _ActorStop\n"},
            "actors.thread:1 imports pykka.messages._ActorStop, whose home is runtime and errors and testing",
        ),
        (
            keeps_libraries_at_home,
            {"rollout/reader.py": "def f():\n    import sqlite3\n"},
            "rollout.reader:2 imports sqlite3, whose home is rollout.index",
        ),
        (
            keeps_libraries_at_home,
            {"model/provider.py": "from urllib import parse, request\n"},
            "model.provider:1 imports urllib.request, whose home is model.responses",
        ),
        (
            keeps_the_thread_from_its_supervisor,
            {"actors/thread.py": "from codex_actors.actors.supervisor import S", "actors/supervisor.py": ""},
            "actors.thread:1 imports actors.supervisor",
        ),
    ],
)
def test_made_up_breach_of_law_is_named(rule: Rule, files: dict[str, str], expected: str, tmp_path: Path) -> None:
    (breach,) = rule(read_imports(write_package(tmp_path, files)))
    assert breach.startswith(expected)


def test_made_up_package_within_laws_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from codex_actors.manager import ThreadManager\n",
        "errors.py": "import pykka\n",
        "manager.py": "from codex_actors.actors import thread\nfrom urllib.parse import quote\n",
        "actors/__init__.py": "",
        "actors/thread.py": "from codex_actors.actors.handle import H\n",
        "actors/handle.py": "import typing\nif typing.TYPE_CHECKING:\n    from .thread import T\n",
        "rollout/index.py": "import sqlite3\nfrom codex_actors import errors\n",
        "runtime/actor.py": "from pykka import Actor\ndef f():\n    import uvloop\n",
        "cli.py": "from codex_actors import ThreadManager\n",
    }
    imports = read_imports(write_package(tmp_path, files))
    assert [breach for rule in RULES for breach in rule(imports)] == []
