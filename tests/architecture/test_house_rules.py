"""What ruff cannot know of the house: sizes, names, and errors that cross processes."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspex_ray.core.errors import BY_CODE, DspexRayError, every_error

PACKAGE = Path(__file__).parents[2] / "dspex_ray"
MODULE_LINES = 500
FUNCTION_LINES = 60
BANNED = {"base", "common", "data", "handler", "helper", "info", "manager", "process", "util"}
# A written schema is as long as its tables, and stands in one file on purpose.
MIGRATIONS = PACKAGE / "db" / "migrations"
SCHEMA = PACKAGE / "db" / "tables.py"
SOURCES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != SCHEMA and not path.is_relative_to(MIGRATIONS)
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def own_lines(function: Function) -> int:
    """Lines of the function without those of functions and classes inside it, which count alone."""
    assert function.end_lineno is not None
    whole = function.end_lineno - function.lineno + 1
    return whole - sum(_length(inner) for inner in _inner(function))


def _inner(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield child
        else:
            yield from _inner(child)


def _length(node: ast.AST) -> int:
    assert isinstance(node, Function | ast.ClassDef)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_the_package_was_found() -> None:
    assert len(SOURCES) > 50


def test_no_module_is_too_long() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: n for path, n in lengths.items() if n > MODULE_LINES} == {}


def test_no_function_is_too_long() -> None:
    found = {
        f"{path}:{node.lineno} {node.name}": own_lines(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    }
    assert {where: n for where, n in found.items() if n > FUNCTION_LINES} == {}


def test_a_function_is_as_long_as_its_own_lines() -> None:
    source = "def outer():\n    a = 1\n    def inner():\n        return 1\n    return inner\n"
    outer = ast.parse(source).body[0]
    assert isinstance(outer, Function)
    assert own_lines(outer) == 3


def test_modules_are_named_for_what_they_hold() -> None:
    """The last word is what a module is; `data_plane` is a plane and `base_urls` are URLs."""
    named = [path.parent if path.name == "__init__.py" else path for path in SOURCES]
    last = {path: path.stem.strip("_").rsplit("_", 1)[-1] for path in named}
    bad = {path for path, word in last.items() if {word, word.removesuffix("s")} & BANNED}
    assert bad == set()


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[DspexRayError]) -> None:
    error = kind("what is", field="here", retry_after_s=1.5, allowed=["a"])
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.message, back.details, str(back)) == (error.message, error.details, "what is")
    assert back.retry_after_s == 1.5


def test_every_error_has_a_code_of_its_own() -> None:
    ours = [kind for kind in every_error() if kind.__module__ == DspexRayError.__module__]
    assert len({kind.code for kind in ours}) == len(ours)
    assert all(BY_CODE[kind.code] is kind for kind in ours)
