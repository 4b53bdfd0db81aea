"""What a dataset's fields hold, summed up row by row in bounded memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dspex_ray.core.canonical import canonical_json
from dspex_ray.datasets.model import FieldSummary

MAX_FIELDS = 200  #: of one version
MAX_DISTINCT = 1_000  #: different values of one field are counted up to here
_SHORT = 32  # longer text is remembered by its hash

_KINDS = {str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}


class Profile:
    """Fields in the order in which they were first seen."""

    def __init__(self) -> None:
        self._fields: dict[str, _FieldCount] = {}
        self._examples = 0

    def has_room(self, values: Mapping[str, Any]) -> bool:
        """Whether the fields of this row are still within MAX_FIELDS."""
        known = self._fields
        return len(known) + sum(name not in known for name in values) <= MAX_FIELDS

    def add(self, values: Mapping[str, Any]) -> None:
        self._examples += 1
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                field = self._fields[name] = _FieldCount()
            field.add(value)

    def summary(self) -> tuple[FieldSummary, ...]:
        return tuple(
            field.summary(name, self._examples - field.seen) for name, field in self._fields.items()
        )


def kind_of(value: Any) -> str:
    """`value`'s type as text: `str`, `int`, `float`, `bool`, `null`, `list[...]`, `dict[...]`."""
    known = _KINDS.get(type(value))
    if known is not None:
        return known
    if isinstance(value, Mapping):
        return "dict[str, any]"
    items = {_KINDS.get(type(item), "any") for item in value}
    if items == {"int", "float"}:
        items = {"float"}
    return f"list[{items.pop()}]" if len(items) == 1 and "null" not in items else "list[any]"


def type_of(kinds: Mapping[str, int]) -> str:
    """The signature type that holds values of all these kinds; null aside, which is `nullable`."""
    held = sorted(kind for kind in kinds if kind != "null")
    if "float" in held and "int" in held:
        held.remove("int")
    return " | ".join(held) or "any"


class _FieldCount:
    def __init__(self) -> None:
        self.seen = 0
        self._kinds: Counter[str] = Counter()
        self._distinct: set[Any] | None = set()
        self._lengths = _Extent()
        self._numbers = _Extent()

    def add(self, value: Any) -> None:
        self.seen += 1
        kind = kind_of(value)
        self._kinds[kind] += 1
        if kind in ("int", "float"):
            self._numbers.add(value)
        elif kind == "str" or kind.startswith("list"):
            self._lengths.add(len(value))
        if self._distinct is not None:
            self._distinct.add((kind, _remembered(value)))
            if len(self._distinct) > MAX_DISTINCT:
                self._distinct = None

    def summary(self, name: str, missing: int) -> FieldSummary:
        lengths, numbers = self._lengths, self._numbers
        return FieldSummary(
            name=name,
            type=type_of(self._kinds),
            nullable=self._kinds["null"] > 0,
            counts=dict(sorted(self._kinds.items())),
            missing=missing,
            distinct=None if self._distinct is None else len(self._distinct),
            shortest=None if lengths.least is None else int(lengths.least),
            longest=None if lengths.greatest is None else int(lengths.greatest),
            mean_length=lengths.mean,
            least=numbers.least,
            greatest=numbers.greatest,
            mean=numbers.mean,
        )


class _Extent:
    def __init__(self) -> None:
        self.least: float | None = None
        self.greatest: float | None = None
        self.mean: float | None = None
        self._count = 0

    def add(self, value: float) -> None:
        value = float(value)
        self._count += 1
        if self.least is None or self.greatest is None or self.mean is None:
            self.least = self.greatest = self.mean = value
            return
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)
        # Not by a sum: two large floats would make it infinite.
        self.mean += value / self._count - self.mean / self._count


def _remembered(value: Any) -> Any:
    """Something small that is equal for equal values of a kind."""
    if isinstance(value, str) and len(value) > _SHORT:
        return hashlib.sha256(value.encode()).digest()[:16]
    if isinstance(value, list | tuple | Mapping):
        return hashlib.sha256(canonical_json(value)).digest()[:16]
    return value
