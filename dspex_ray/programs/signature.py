"""Signatures: text or field lists to a SignatureSpec, and a SignatureSpec to text and to DSPy.

    question, context: list[str], k: int = 3, hint?: str "a hint" -> answer: Literal['a', 'b']

`?` makes a field optional, `= literal` gives its default, a quoted string last describes it.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Container, Iterable
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import FieldSpec, SignatureSpec
from dspex_ray.programs.types import Misfit, annotation_for, coerce, json_schema_for, parse_type

MAX_SIGNATURE_CHARS = 20_000

# What DSPy's Signature, Predict and callbacks keep for themselves; a test holds it to DSPy's own.
RESERVED_FIELDS = frozenset(
    """
    append append_instructions config construct copy delete demos dict dump_state equals fields
    from_orm input_fields insert instance instructions json lm load_state mro new_signature
    output_fields parse_file parse_obj parse_raw prediction prepend register schema schema_json
    self signature update_forward_refs validate with_instructions with_updated_fields
    """.split()  # noqa: SIM905 - a list literal takes forty lines
)
_RESERVED_PREFIXES = ("model_", "dspy_")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_BRACKETS = re.compile(r"[\[({][^\[\](){}]*[\])}]")
# In a mask: a string's first character, the rest of it, and anything in brackets.
_QUOTE, _QUOTED, _BRACKETED = "\x01", "\x02", "\x03"
_LAST_STRING = re.compile(rf"{_QUOTE}{_QUOTED}*\Z")


def signature_from(source: str | dict[str, Any] | SignatureSpec) -> SignatureSpec:
    """A signature from its text or its field lists.

    The dict has `inputs`, `outputs` and maybe `instructions`. Inputs and outputs are a list of
    fields, each a dict (name, type, description, optional, default) or text, or a mapping from
    name to type text or dict. Raises Invalid naming the field.
    """
    if isinstance(source, SignatureSpec):
        return source
    if isinstance(source, str):
        return parse_signature(source)
    unknown = sorted(source.keys() - {"inputs", "outputs", "instructions"})
    if unknown:
        raise Invalid(
            f"Unknown key `{unknown[0]}` in the signature (allowed: inputs, outputs, instructions)",
            field=unknown[0],
            rule="unknown key",
        )
    inputs, outputs = (_listed(source.get(side), side) for side in ("inputs", "outputs"))
    return make_signature(inputs, outputs, source.get("instructions") or "")


def parse_signature(text: str, instructions: str = "") -> SignatureSpec:
    """Raises Invalid: rule "signature" for the form as a whole, else naming the field."""
    if len(text) > MAX_SIGNATURE_CHARS:
        raise _malformed(text, f"it is longer than {MAX_SIGNATURE_CHARS} characters")
    sides = _split(text, "->")
    if len(sides) != 2:
        raise _malformed(text, "it must contain exactly one `->`")
    if not all(side.strip() for side in sides):
        raise _malformed(text, "it must name at least one input and one output")
    inputs, outputs = ([_parse_field(part) for part in _split(side, ",")] for side in sides)
    return make_signature(inputs, outputs, instructions)


def make_signature(
    inputs: Iterable[FieldSpec], outputs: Iterable[FieldSpec], instructions: str = ""
) -> SignatureSpec:
    """Raises Invalid when a name stands twice or a side is empty."""
    sides = {"inputs": tuple(inputs), "outputs": tuple(outputs)}
    seen: dict[str, str] = {}
    for side, fields in sides.items():
        if not fields:
            raise Invalid(f"A signature needs {side}", field=side, rule="at least one")
        for field in fields:
            if field.name in seen:
                where = "twice in the " + side if seen[field.name] == side else "input and output"
                raise Invalid(
                    f"Field `{field.name}` stands {where}", field=field.name, rule="unique"
                )
            seen[field.name] = side
    if not isinstance(instructions, str):
        raise Invalid("instructions must be text", field="instructions", rule="type")
    return SignatureSpec(instructions=instructions, **sides)


def make_field(
    name: str,
    type_text: str = "str",
    description: str = "",
    *,
    optional: bool = False,
    default: Any = None,
) -> FieldSpec:
    """A checked field: canonical type, default of that type. A nullable type is optional too."""
    check_identifier(name, RESERVED_FIELDS, kind="field", field=str(name)[:80])
    kind = parse_type(type_text, name)
    optional = optional or kind.nullable
    if default is not None:
        try:
            default = coerce(kind.text, default)
        except Misfit as error:
            raise Invalid(
                f"Invalid default of `{name}`: {error} (its type is {kind.text})",
                field=name,
                rule="default",
            ) from None
    try:
        return FieldSpec(
            name=name, type=kind.text, description=description, optional=optional, default=default
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"])
        raise Invalid(
            f"Invalid {where} of `{name}`: {wrong['msg']}", field=name, rule=where
        ) from None


def check_identifier(name: Any, reserved: Container[str], *, kind: str, field: str) -> None:
    """Names of fields and modules become attributes and keyword arguments. Raises Invalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        rule = "a to z first, then a to z, 0 to 9 and _, 64 characters at most"
    elif keyword.iskeyword(name):
        rule = "no Python keyword"
    elif name in reserved or name.startswith(_RESERVED_PREFIXES):
        rule = "not one that DSPy keeps for itself"
    else:
        return
    raise Invalid(
        f"Invalid {kind} name `{str(name)[:80]}` (allowed: {rule})", field=field, rule="name"
    )


def render_signature(spec: SignatureSpec) -> str:
    """The text that `parse_signature` reads back as the same fields (instructions apart)."""
    inputs, outputs = (", ".join(map(_render_field, s)) for s in (spec.inputs, spec.outputs))
    return f"{inputs} -> {outputs}"


def json_schema(fields: Iterable[FieldSpec]) -> dict[str, Any]:
    """The JSON schema of an object with these fields and no others."""
    properties: dict[str, Any] = {}
    required = []
    for field in fields:
        schema = json_schema_for(field.type, optional=field.optional)
        if field.description:
            schema["description"] = field.description
        if field.default is not None:
            schema["default"] = field.default
        elif not field.optional:
            required.append(field.name)
        properties[field.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def to_dspy(spec: SignatureSpec) -> Any:
    """The `dspy.Signature` class of the spec, made once."""
    # By text: specs are not hashable when a default is a list, and True == 1 would share a class.
    return _dspy_signature(spec.model_dump_json())


@lru_cache(maxsize=1024)
def _dspy_signature(spec_json: str) -> Any:
    import dspy  # 2 s of import, which whoever only parses signatures is spared

    spec = SignatureSpec.model_validate_json(spec_json)
    inputs = {field.name: _dspy_field(field, dspy.InputField) for field in spec.inputs}
    outputs = {field.name: _dspy_field(field, dspy.OutputField) for field in spec.outputs}
    return dspy.make_signature({**inputs, **outputs}, spec.instructions or None)


def _dspy_field(field: FieldSpec, declare: Callable[..., Any]) -> tuple[Any, Any]:
    # An optional field has no default of its own: DSPy would print "None" into the prompt.
    options: dict[str, Any] = {"desc": field.description} if field.description else {}
    if field.default is not None:
        options["default"] = field.default
    return annotation_for(field.type, optional=field.optional), declare(**options)


def _listed(side: Any, name: str) -> list[FieldSpec]:
    if isinstance(side, dict):
        side = [
            {**(kind if isinstance(kind, dict) else {"type": kind}), "name": field}
            for field, kind in side.items()
        ]
    if not isinstance(side, list | tuple):
        raise Invalid(f"{name} must be a list of fields or a mapping", field=name, rule="type")
    return [_described(field, f"{name}[{index}]") for index, field in enumerate(side)]


def _described(field: Any, where: str) -> FieldSpec:
    if isinstance(field, FieldSpec):
        return field
    if isinstance(field, str):
        return _parse_field(field)
    if not isinstance(field, dict) or not isinstance(field.get("name"), str):
        raise Invalid(f"{where} must be text or a dict with a name", field=where, rule="type")
    allowed = {"name", "type", "description", "optional", "default"}
    unknown = sorted(field.keys() - allowed)
    if unknown:
        raise Invalid(
            f"Unknown key `{unknown[0]}` in field `{field['name']}` "
            f"(allowed: {', '.join(sorted(allowed))})",
            field=field["name"],
            rule="unknown key",
        )
    kind, optional = field.get("type", "str"), field.get("optional", False)
    if not isinstance(kind, str) or not isinstance(optional, bool):
        raise Invalid(
            f"Field `{field['name']}`: type must be text and optional true or false",
            field=field["name"],
            rule="type",
        )
    return make_field(
        field["name"],
        kind,
        field.get("description", ""),
        optional=optional,
        default=field.get("default"),
    )


def _parse_field(text: str) -> FieldSpec:
    text = text.strip()
    if not text:
        raise _malformed(text, "a field between commas is empty")
    mask = _mask(text)
    description = ""
    last = _LAST_STRING.search(mask)
    before = mask[: last.start()].rstrip() if last else ""
    if last and before and not before.endswith("="):
        description = _literal(text[last.start() :], text)
        mask, text = before, text[: len(before)]
    head = mask.split("=", 1)[0]
    name = head.split(":", 1)[0].strip()
    optional, name = name.endswith("?"), name.removesuffix("?").rstrip()
    kind = text[head.index(":") + 1 : len(head)] if ":" in head else "str"
    default = _literal(text[len(head) + 1 :], name) if len(head) < len(mask) else None
    return make_field(name, kind, description, optional=optional, default=default)


def _render_field(field: FieldSpec) -> str:
    # A description or default in repr() never holds a raw quote of its own kind.
    default = "" if field.default is None else f" = {field.default!r}"
    description = f" {field.description!r}" if field.description else ""
    return f"{field.name}{'?' if field.optional else ''}: {field.type}{default}{description}"


def _split(text: str, separator: str) -> list[str]:
    """Split where `separator` stands outside quotes and brackets."""
    parts, at = [], 0
    for piece in _mask(text).split(separator):
        parts.append(text[at : at + len(piece)])
        at += len(piece) + len(separator)
    return parts


def _mask(text: str) -> str:
    """The text, equally long, with strings and bracketed parts blotted out."""
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text):
        raise _malformed(text, "it holds control characters")
    mask = _STRING.sub(lambda found: _QUOTE + _QUOTED * (len(found[0]) - 1), text)
    blotted = None
    while blotted != mask:
        blotted, mask = mask, _BRACKETS.sub(lambda found: _BRACKETED * len(found[0]), mask)
    if re.search(r"[\[\](){}'\"]", mask):
        raise _malformed(text, "its quotes or brackets do not close")
    return mask


def _literal(text: str, field: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Invalid(
            f"Invalid default of `{field[:80]}`: not a literal", field=field[:80], rule="default"
        ) from None


def _malformed(text: str, reason: str) -> Invalid:
    return Invalid(
        f"Invalid signature format: {reason}: {text[:200]!r}", field="signature", rule="signature"
    )
