"""A forward of a DSPy optimizer's student, run elsewhere: what it is sent as, what comes back.

A student differs from its artifact by instructions, demos and configs of its predictors, and by
the parameters of the LM in force. What JSON does not hold exactly is not sent: it runs at home.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from dspex_ray.core.errors import DspexRayError
from dspex_ray.core.noun import Noun
from dspex_ray.optimization.wire import Fault, fault_of
from dspex_ray.programs.runtime import LoadedProgram, Step, run_traced

_PARSE = "adapter_parse_error"
_LM = "lm_error"


class PredictorState(Noun):
    """`lm` are the parameters of the predictor's own LM, if it has one."""

    instructions: str
    demos: list[dict[str, Any]]
    config: dict[str, Any]
    lm: dict[str, Any] | None = None


class Forwarded(Noun):
    """`lm` are the parameters of the LM in force."""

    inputs: dict[str, Any]
    state: dict[str, PredictorState]
    lm: dict[str, Any]


class CameBack(Noun):
    """The prediction's fields, or why there are none; and what the predictors did before."""

    fields: dict[str, Any] | None = None
    fault: Fault | None = None
    steps: list[tuple[str, dict[str, Any], dict[str, Any]]] = []


def sent(module: Any, inputs: Mapping[str, Any], own: Any) -> Forwarded | None:
    """None when it cannot be sent as it is: it holds what is no JSON, or calls other LMs than
    `own`, the engine of the run's program LM."""
    lm = dspy.settings.lm  # noqa: TID251 - what DSPy's thread has in force
    if not _is(lm, own):
        return None
    state = {}
    for name, predictor in module.named_predictors():
        if predictor.lm is not None and not _is(predictor.lm, own):
            return None
        state[name] = {
            "instructions": str(predictor.signature.instructions),
            "demos": [dict(demo.items()) for demo in predictor.demos],
            "config": dict(predictor.config),
            "lm": None if predictor.lm is None else _parameters(predictor.lm),
        }
    whole = {"inputs": dict(inputs), "state": state, "lm": _parameters(lm)}
    try:
        exact = json.loads(json.dumps(whole)) == whole
    except (TypeError, ValueError):
        return None
    return Forwarded.model_validate(whole) if exact else None


def applied(program: LoadedProgram, state: Mapping[str, PredictorState]) -> None:
    """Make the freshly loaded program the student that was sent, its predictors' LMs left out."""
    for name, predictor in program.module.named_predictors():
        told = state[name]
        predictor.signature = predictor.signature.with_instructions(told.instructions)
        predictor.demos = [dspy.Example(**demo) for demo in told.demos]
        predictor.config = dict(told.config)


def with_lms(program: LoadedProgram, lms: Mapping[str, Any]) -> LoadedProgram:
    """A copy whose predictors of these names call LMs of their own."""
    module = program.module.deepcopy()
    for name, predictor in module.named_predictors():
        predictor.lm = lms.get(name)
    names = {id(predictor): name for name, predictor in module.named_predictors()}
    return replace(program, module=module, names=names)


async def run_forward(
    program: LoadedProgram, inputs: Mapping[str, Any], lm: Any, threads: Executor
) -> CameBack:
    """What came of it; raises RunHalted."""
    steps: list[Step] = []
    fields, fault = None, None
    try:
        found = await run_traced(program, inputs, steps, lm=lm, threads=threads)
        fields = to_jsonable_python(found)
    except Exception as error:
        fault = _fault(error, program.module)
    return CameBack(fields=fields, fault=fault, steps=[_plain(step) for step in steps])


def replayed(found: CameBack, module: Any) -> Any:
    """The prediction, once DSPy's trace holds what the run did, by this very module's predictors:
    optimizers look for them. Raises what the run raised."""
    by_name = dict(module.named_predictors())
    trace = dspy.settings.trace  # noqa: TID251 - of DSPy's thread
    if trace is not None:
        for name, asked, answered in found.steps:
            predictor = by_name[name]
            inputs = _typed(asked, predictor.signature.input_fields)
            outputs = _typed(answered, predictor.signature.output_fields)
            trace.append((predictor, inputs, dspy.Prediction(**outputs)))
    if found.fault is not None:
        raise _error(found.fault, by_name)
    return dspy.Prediction(**(found.fields or {}))


def _is(lm: Any, own: Any) -> bool:
    """Copies of an LM share their engine."""
    return getattr(lm, "engine", None) is own


def _parameters(lm: Any) -> dict[str, Any]:
    return {name: value for name, value in lm.kwargs.items() if value is not None}


def _plain(step: Step) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return step.predictor, to_jsonable_python(step.inputs), to_jsonable_python(step.outputs)


def _fault(error: Exception, module: Any) -> Fault:
    """Optimizers look into an answer that no adapter could read, and pass errors of LMs on."""
    if isinstance(error, AdapterParseError):
        named = module.named_predictors()
        details = {
            "predictor": next((n for n, p in named if p.signature == error.signature), None),
            "adapter": error.adapter_name,
            "response": error.lm_response,
            "parsed": to_jsonable_python(error.parsed_result),
        }
        return Fault(code=_PARSE, details=details)
    cause = _ours(error)
    if isinstance(error, dspy.LMError):
        inside = fault_of(cause or error)
        return Fault(code=_LM, details=inside.model_dump(mode="json"))
    return fault_of(cause or error)


def _error(fault: Fault, predictors: Mapping[str, Any]) -> Exception:
    details = fault.details
    if fault.code == _PARSE and details["predictor"] in predictors:
        signature = predictors[details["predictor"]].signature
        error: Exception = AdapterParseError(
            details["adapter"], signature, details["response"], parsed_result=details["parsed"]
        )
    elif fault.code == _LM:
        error = dspy.LMError("the language model failed")
        error.__cause__ = Fault.model_validate(details).error()
    else:
        error = fault.error()
    return error


def _ours(error: BaseException | None) -> DspexRayError | None:
    while error is not None:
        if isinstance(error, DspexRayError):
            return error
        error = error.__cause__
    return None


def _typed(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """As the signature types them, where that is more than JSON."""
    found = dict(values)
    for name, value in values.items():
        if name in fields and isinstance(value, dict | list):
            try:
                found[name] = TypeAdapter(fields[name].annotation).validate_python(value)
            except ValidationError:
                found[name] = value
    return found
