"""Programs written as a class: finding the class, pinning its source and structure, its state."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy

from dspex_ray.core.canonical import canonical_json, content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import FieldSpec, ImportArtifact, ProgramSource, SignatureSpec
from dspex_ray.programs.rules import REASONING
from dspex_ray.programs.signature import make_field, make_signature, signature_from, to_dspy
from dspex_ray.programs.types import text_for

_PATH = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
# DSPy's own modules that run what a model or a state wrote: no sandbox of ours holds them.
_RUNS_CODE = frozenset({"CodeAct", "Flex", "ProgramOfThought", "RLM"})


def resolve_import(source: ProgramSource, *, allowed_packages: Iterable[str]) -> ImportArtifact:
    """Imports the class, makes an instance and pins both. Raises Invalid; never runs `forward`."""
    path = source.import_path or ""
    cls = import_class(path, allowed_packages)
    module = make_instance(cls, source.kwargs)
    if not module.named_predictors():
        raise Invalid(f"{path} has no predictors", field="import_path", rule="predictors")
    if source.state is not None:
        load_state(module, source.state)
    return ImportArtifact(
        path=path,
        kwargs=source.kwargs,
        signature=_given_or_derived(source, module),
        source_sha256=source_sha256(cls),
        structure_hash=structure_hash(module),
        state=without_lms(module.dump_state()),
        predictor_configs=_plain_configs(module),
        adapter=source.adapter,
    )


def import_class(path: str, allowed_packages: Iterable[str]) -> type[Any]:
    """The `dspy.Module` subclass that `package.module:Class` names, if its package is allowed."""
    allowed = tuple(allowed_packages)
    cls = _import(path, allowed)
    if not (isinstance(cls, type) and issubclass(cls, dspy.Module)):
        raise _refused(f"{path} is not a dspy.Module class", "dspy.Module")
    _check_allowed(cls.__module__, allowed)  # where it is written, not just re-exported
    if cls.__name__ in _RUNS_CODE and cls.__module__.split(".")[0] == "dspy":
        raise _refused(f"{path} runs code that a model writes", "no code")
    return cls


def import_function(path: str, allowed_packages: Iterable[str]) -> Callable[..., Any]:
    """The function that `package.module:function` names, or a class as `import_class` takes it."""
    allowed = tuple(allowed_packages)
    found = _import(path, allowed)
    if isinstance(found, type):
        return import_class(path, allowed)
    if not inspect.isfunction(found):
        raise _refused(f"{path} is not a function", "function")
    _check_allowed(found.__module__, allowed)
    return found


def _import(path: str, allowed: tuple[str, ...]) -> Any:
    named = _PATH.fullmatch(path)
    if named is None:
        raise _refused(f"Import path {path[:200]!r} is not `package.module:Class`", "import path")
    _check_allowed(named[1], allowed)
    try:
        return getattr(importlib.import_module(named[1]), named[2])
    except Exception as error:  # a module may raise anything while it is imported
        raise _refused(
            f"{path} cannot be imported: {type(error).__name__}", "importable"
        ) from error


def make_instance(cls: type[Any], kwargs: Mapping[str, Any]) -> Any:
    """A fresh module, its predictors without LM. Raises Invalid when the class refuses."""
    arguments = dict(kwargs)
    if cls.__module__.split(".")[0] == "dspy" and isinstance(arguments.get("signature"), str):
        # DSPy's own parser imports modules by the names it meets in types; ours does not.
        arguments["signature"] = to_dspy(signature_from(arguments["signature"]))
    try:
        module = cls(**arguments)
    except Exception as error:
        raise Invalid(
            f"{cls.__name__}({', '.join(kwargs)}) cannot be made: {type(error).__name__}: {error}",
            field="kwargs",
            rule="constructible",
        ) from error
    for predictor in module.predictors():
        predictor.lm = None  # a predictor's own LM would win over the routed one
    return module


def source_sha256(cls: Callable[..., Any]) -> str:
    """Of the file that the class, or the function, is written in."""
    file = inspect.getsourcefile(cls)
    if file is None:
        raise _refused(f"{cls.__module__}:{cls.__name__} has no source file", "source")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def structure_hash(module: Any) -> str:
    """Of predictor paths and their fields, in order, with types: what a state must fit.

    DSPy restores a state's fields by position, so that another structure would load silently.
    """
    return content_hash(
        [
            [
                path,
                _fields(predictor.signature.input_fields),
                _fields(predictor.signature.output_fields),
            ]
            for path, predictor in module.named_predictors()
        ]
    )


def load_state(module: Any, state: Mapping[str, Any]) -> None:
    """DSPy's JSON state into the module, without LMs. Raises Invalid when it does not fit."""
    state = {path: part for path, part in state.items() if path != "metadata"}
    fresh = module.dump_state()
    _same_keys(state, fresh, "state")
    for path, part in state.items():
        where = f"state.{path}"
        if not isinstance(part, Mapping):
            raise Invalid(f"{where} must be an object", field=where, rule="type")
        _same_keys(part, {**fresh[path], "lm": None}, where, optional=("lm", "fields"))
        if len(_state_fields(part)) != len(_state_fields(fresh[path])):
            raise Invalid(f"{where} has other fields than the class", field=where, rule="structure")
    try:
        module.load_state(without_lms(state))
    except Exception as error:
        raise Invalid(
            f"The state does not load: {type(error).__name__}", field="state", rule="loadable"
        ) from error


def without_lms(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path: {**part, "lm": None} if "lm" in part else dict(part) for path, part in state.items()
    }


def _check_allowed(module: str, allowed: tuple[str, ...]) -> None:
    if not any(module == package or module.startswith(f"{package}.") for package in allowed):
        raise _refused(
            f"Package of `{module}` is not allowed (allowed: {', '.join(allowed) or 'none'})",
            "allowed packages",
        )


def _refused(message: str, rule: str) -> Invalid:
    return Invalid(message, field="import_path", rule=rule)


def _plain_configs(module: Any) -> dict[str, dict[str, Any]]:
    configs = {path: dict(predictor.config) for path, predictor in module.named_predictors()}
    for path, config in configs.items():
        try:
            canonical_json(config)
        except (TypeError, ValueError):
            raise _refused(f"The config of predictor `{path}` is not JSON", "json") from None
    return configs


def _fields(fields: Mapping[str, Any]) -> list[list[str]]:
    return [[name, _type_name(field.annotation)] for name, field in fields.items()]


def _type_name(annotation: Any) -> str:
    """Stable across processes, unlike repr() of types that carry addresses."""
    known = text_for(annotation)
    if known != "any" or annotation is Any:
        return known
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    arguments = ", ".join(map(_type_name, typing.get_args(annotation)))
    return (
        f"{_type_name(typing.get_origin(annotation))}[{arguments}]"
        if arguments
        else str(annotation)
    )


def _same_keys(
    given: Mapping[str, Any], wanted: Mapping[str, Any], where: str, optional: tuple[str, ...] = ()
) -> None:
    for key in [*(k for k in given if k not in wanted), *(k for k in wanted if k not in given)]:
        if key in optional:
            continue
        reason = "is unknown" if key in given else "is missing"
        raise Invalid(
            f"`{key}` {reason} in {where} (the class has: {', '.join(wanted)})",
            field=f"{where}.{key}",
            rule="structure",
        )


def _state_fields(part: Mapping[str, Any]) -> list[Any]:
    signature = part.get("signature")
    fields = signature.get("fields") if isinstance(signature, Mapping) else None
    return fields if isinstance(fields, list) else []


def _given_or_derived(source: ProgramSource, module: Any) -> SignatureSpec:
    if source.signature is not None:
        return signature_from(source.signature)
    predictors = [predictor for _, predictor in module.named_predictors()]
    outputs = [
        _predictor_field(name, field)
        for name, field in predictors[-1].signature.output_fields.items()
        if name != REASONING.name
    ]
    return make_signature(_inputs(module, predictors), outputs)


def _inputs(module: Any, predictors: list[Any]) -> list[FieldSpec]:
    """Inputs from the parameters of `forward`; of a lone predictor's signature if it has none."""
    known = {
        name: field
        for predictor in reversed(predictors)
        for name, field in predictor.signature.input_fields.items()
    }
    named = named_parameters(module)
    if not named and len(predictors) == 1:
        return [_predictor_field(name, field) for name, field in known.items()]
    if not named:
        raise Invalid(
            "The inputs cannot be told from `forward`: give a signature",
            field="signature",
            rule="required",
        )
    hints = _hints(module)
    found = []
    for name, parameter in named.items():
        if name in hints:
            kind = text_for(hints[name])
        else:
            kind = text_for(known[name].annotation) if name in known else "any"
        optional = parameter.default is not parameter.empty
        default = parameter.default if optional else None
        found.append(make_field(name, kind, optional=optional, default=default))
    return found


def named_parameters(module: Any) -> dict[str, inspect.Parameter]:
    """Parameters of `forward` (or `aforward`) that have a name: not `**kwargs`, not `self`."""
    parameters = inspect.signature(_method(module)).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name != "self"
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _hints(module: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_method(module), include_extras=True)
    except NameError:
        return {}  # names that only type checkers see


def _method(module: Any) -> Any:
    # From the class: DSPy warns when `forward` is read from an instance.
    method = getattr(type(module), "forward", None) or getattr(type(module), "aforward", None)
    if method is None:
        raise _refused(f"{type(module).__name__} has neither forward nor aforward", "forward")
    return method


def _predictor_field(name: str, field: Any) -> FieldSpec:
    description = (field.json_schema_extra or {}).get("desc", "")
    return make_field(
        name,
        text_for(field.annotation),
        "" if description == f"${{{name}}}" else description,
        default=None if field.is_required() else field.default,
    )
