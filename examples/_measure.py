"""What `review_team.py` measures of a Python file, with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one file. `longest` is the name of its longest function, or "" where it has none; `nesting` counts blocks
    (if, for, while, with, try, match) in each other within one function, or at module level."""

    lines: int
    functions: int
    undocumented: int
    longest: str
    longest_lines: int
    nesting: int


@lru_cache(maxsize=256)
def measure(source: str) -> Measures:
    """Measure a file's text.

    Raises:
        SyntaxError: it is not Python.
    """
    tree = ast.parse(source)
    functions = list(_functions(tree))
    longest = max(functions, key=_length, default=None)
    return Measures(
        lines=len(source.splitlines()),
        functions=len(functions),
        undocumented=sum(ast.get_docstring(function, clean=False) is None for function in functions),
        longest="" if longest is None else longest.name,
        longest_lines=0 if longest is None else _length(longest),
        nesting=max(_depth(scope) for scope in (tree, *functions)),
    )


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _depth(node: ast.AST) -> int:
    """How many blocks stand in each other at the deepest place below `node`, but for functions and classes in it."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        deepest = max(deepest, _depth(child) + (isinstance(child, _BLOCKS) and not _is_elif(node, child)))
    return deepest


def _is_elif(parent: ast.AST, child: ast.AST) -> bool:
    if not (isinstance(parent, ast.If) and isinstance(child, ast.If)):
        return False
    return parent.orelse == [child] and child.col_offset == parent.col_offset
