"""Rows from a function of an installed package, called where the caller is: code never travels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.imports import import_function


def rows_from(path: str, allowed_packages: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """What `package.module:function` returns or yields when called without arguments: mappings,
    or `dspy.Example`s. Raises Invalid for a path that is not allowed, or that has no rows."""
    function = import_function(path, allowed_packages)
    if isinstance(function, type):
        raise _refused(f"{path} is a class: name a function that gives rows", "function")
    found = function()
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
        raise _refused(f"{path} gives a {type(found).__name__}, not rows", "rows")
    return map(_values, found)


def _values(row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    fields = getattr(row, "toDict", None)  # of a dspy.Example
    if fields is None:
        raise _refused(f"a row is a {type(row).__name__}, neither a mapping nor an example", "rows")
    values: Mapping[str, Any] = fields()
    return values


def _refused(message: str, rule: str) -> Invalid:
    return Invalid(message, field="import_path", rule=rule)
