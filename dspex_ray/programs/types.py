"""Type expressions of signature fields: text to canonical text, annotation and checked values.

The text is parsed to Python's syntax tree and walked by hand: nothing in it is evaluated.
"""

from __future__ import annotations

import ast
import types
import typing
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Optional, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from dspex_ray.core.errors import Invalid
from dspex_ray.core.values import ConfidenceScore, Embedding, Probability, ReasoningChain

MAX_TYPE_CHARS = 2000
MAX_DEPTH = 16

_NAMES: dict[str, str] = {
    "str": "str",
    "string": "str",
    "int": "int",
    "integer": "int",
    "float": "float",
    "bool": "bool",
    "boolean": "bool",
    "any": "any",
    "embedding": "embedding",
    "probability": "probability",
    "confidence_score": "confidence_score",
    "reasoning_chain": "reasoning_chain",
}
_LISTS = ("list", "array")
_DICTS = ("dict", "map")
_ANNOTATIONS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "any": Any,
    "embedding": Embedding,
    "probability": Probability,
    "confidence_score": ConfidenceScore,
    "reasoning_chain": ReasoningChain,
}
_ALLOWED = (
    "str, int, float, bool, any, list[T], dict[str, T], Literal['a', 1, True], T | U, Optional[T], "
    "embedding, probability, confidence_score, reasoning_chain"
)
_STRICT = ConfigDict(allow_inf_nan=False)


class FieldType(NamedTuple):
    """`text` is the canonical spelling, `nullable` whether None is one of its values."""

    text: str
    annotation: Any
    nullable: bool = False


class Misfit(ValueError):
    """A value that is not of its type: where inside it (`[1]` or ""), what is wrong, which rule.

    Never says the value: messages must not carry content.
    """

    def __init__(self, path: str, reason: str, rule: str) -> None:
        super().__init__(reason)
        self.path = path
        self.rule = rule


def parse_type(text: str, field: str | None = None) -> FieldType:
    """Raises Invalid, rule "type", naming `field`, for anything but the allowed expressions."""
    try:
        return _parse(text)
    except ValueError as error:
        raise Invalid(
            f"Invalid type: `{text.strip()[:100]}` {error} (allowed: {_ALLOWED})",
            field=field,
            rule="type",
        ) from None


def canonical_type(text: str, field: str | None = None) -> str:
    return parse_type(text, field).text


def annotation_for(text: str, *, optional: bool = False) -> Any:
    """The Python annotation; `optional` adds None to its values."""
    kind = parse_type(text)
    return Optional[kind.annotation] if optional else kind.annotation  # noqa: UP045 - a value


def coerce(text: str, value: Any, *, optional: bool = False) -> Any:
    """`value` as the type wants it, made of plain JSON values only.

    Raises Misfit when it does not fit: NaN, infinities, lone surrogates and objects that JSON
    has no form for never do.
    """
    try:
        fitting = _adapter(text, optional).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        path = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise Misfit(path, first["msg"], first["type"]) from None
    try:
        plain = from_json(to_json(fitting, inf_nan_mode="constants"), allow_inf_nan=False)
    except ValueError:
        raise Misfit("", "Input should be a value that JSON can hold", "json") from None
    return plain


def json_schema_for(text: str, *, optional: bool = False) -> dict[str, Any]:
    return _adapter(text, optional).json_schema()


def text_for(annotation: Any) -> str:
    """The type text of a Python annotation; "any" for annotations that have none."""
    for name, known in _ANNOTATIONS.items():
        if annotation is known or annotation == known:
            return name
    if typing.get_origin(annotation) is typing.Annotated:
        return text_for(typing.get_args(annotation)[0])
    try:
        return canonical_type(_spelled(annotation))
    except Invalid:
        return "any"


def _spelled(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin in (Union, types.UnionType):
        return " | ".join("None" if arg is type(None) else text_for(arg) for arg in args)
    if origin in (list, dict):
        inner = ", ".join(map(text_for, args))
        return f"{origin.__name__}[{inner}]" if args else origin.__name__
    return "any"


@lru_cache(maxsize=4096)
def _adapter(text: str, optional: bool) -> TypeAdapter[Any]:
    return TypeAdapter(annotation_for(text, optional=optional), config=_STRICT)


@lru_cache(maxsize=4096)
def _parse(text: str) -> FieldType:
    if len(text) > MAX_TYPE_CHARS:
        raise ValueError(f"is longer than {MAX_TYPE_CHARS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("does not parse") from None
    return _walk(tree.body, 0)


def _walk(node: ast.expr, depth: int) -> FieldType:
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}")
    alternatives = _members(node)
    members = [member for member in alternatives if not _is_none(member)]
    nullable = len(members) < len(alternatives)
    if not members:
        raise ValueError("has no values but None")
    kinds = {kind.text: kind for kind in (_single(member, depth) for member in members)}
    if "any" in kinds:
        return FieldType("any", Any)
    text = " | ".join(kinds)
    annotation: Any = Union[tuple(kind.annotation for kind in kinds.values())]  # noqa: UP007
    if not nullable:
        return FieldType(text, annotation)
    return FieldType(f"{text} | None", Optional[annotation], nullable=True)  # noqa: UP045


def _members(node: ast.expr) -> list[ast.expr]:
    """The alternatives of a union in order, however it is written; the node itself if it is none.

    Kept iterative: a long `a | b | ...` is a tree as deep as it has members.
    """
    found, todo = [], [node]
    while todo:
        match todo.pop():
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                todo += [right, left]
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
                todo += [ast.Constant(value=None), inner]
            case ast.Subscript(value=ast.Name(id="Union"), slice=inner):
                todo += reversed(_arguments(inner))
            case other:
                found.append(other)
    return found


def _single(node: ast.expr, depth: int) -> FieldType:
    match node:
        case ast.Name(id=name) if name in _NAMES:
            return FieldType(_NAMES[name], _ANNOTATIONS[_NAMES[name]])
        case ast.Name(id=name) if name in _LISTS:
            return FieldType("list[any]", list[Any])
        case ast.Name(id=name) if name in _DICTS:
            return FieldType("dict[str, any]", dict[str, Any])
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return _generic(name, _arguments(inner), depth)
        case ast.Name():
            raise ValueError("is unknown")
        case _:
            raise ValueError("is not a type")


def _generic(name: str, arguments: list[ast.expr], depth: int) -> FieldType:
    if name == "Literal":
        return _literal(arguments)
    if name in _LISTS and len(arguments) == 1:
        item = _walk(arguments[0], depth + 1)
        return FieldType(f"list[{item.text}]", list[item.annotation])  # type: ignore[name-defined]
    if name in _DICTS and len(arguments) == 2:
        key, value = (_walk(argument, depth + 1) for argument in arguments)
        if key.text != "str":
            raise ValueError("has keys other than str, which JSON has not")
        kind: Any = dict[str, value.annotation]  # type: ignore[name-defined]
        return FieldType(f"dict[str, {value.text}]", kind)
    if name in (*_LISTS, *_DICTS):
        raise ValueError("has the wrong number of arguments")
    raise ValueError("is unknown")


def _literal(arguments: list[ast.expr]) -> FieldType:
    # By spelling, for 1 == True would else make one value of the two.
    values = {repr(value): value for value in (_constant(argument) for argument in arguments)}
    if not values:
        raise ValueError("has no values")
    return FieldType(f"Literal[{', '.join(values)}]", Literal[tuple(values.values())])


def _constant(node: ast.expr) -> str | int | bool:
    match node:
        case ast.Constant(value=str() | int() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            return -value
        case _:
            raise ValueError("has values other than strings, integers, True and False")


def _arguments(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
