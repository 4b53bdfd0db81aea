"""Running a program: enters `dspy.context`, one context a request (optimizers enter their own)."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict

import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.logging_utils import disable_logging

from dspex_ray.core.errors import DspexRayError, OutputInvalid, ProviderDown
from dspex_ray.programs.adapters import Delta, FieldReader, adapter_for, field_reader
from dspex_ray.programs.build import Pipeline, build
from dspex_ray.programs.imports import named_parameters
from dspex_ray.programs.model import AdapterName, Artifact, SignatureSpec
from dspex_ray.programs.tracing import module_spans
from dspex_ray.programs.validation import validate_inputs, validate_outputs
from dspex_ray.routing.scope import SETTING, find_scope

disable_logging()  # DSPy's log lines quote inputs and answers

_settings = dspy.settings  # noqa: TID251 - this module is what the ban sends everybody to
# DSPy copies its settings, not other context variables, into the threads that it starts.
_NAMES = "dspex_predictor_names"
_STATELESS = (Pipeline, dspy.Predict, dspy.ChainOfThought)


class DeltaEvent(TypedDict):
    """A further piece of a field of some predictor; not every field is an output of the program."""

    type: Literal["delta"]
    predictor: str | None
    field: str
    text: str


class OutputsEvent(TypedDict):
    """The last event: the validated outputs."""

    type: Literal["outputs"]
    outputs: dict[str, Any]


@dataclass(frozen=True)
class LoadedProgram:
    """A version in memory, shared by all requests. Make it with `load_program`.

    `names`: predictors by id. `asynchronous`: every module in it has an async path. `stateful`:
    modules may change when they run, so each request gets a copy. `left_out`: inputs that are
    not passed when they are None.
    """

    artifact: Artifact
    module: Any
    names: Mapping[int, str]
    asynchronous: bool
    stateful: bool
    left_out: frozenset[str]

    @property
    def signature(self) -> SignatureSpec:
        return self.artifact.signature


def load_program(artifact: Artifact, *, allowed_packages: Iterable[str]) -> LoadedProgram:
    """Raises Invalid as `build` does. Takes milliseconds; do it off the event loop."""
    module = build(artifact, allowed_packages=allowed_packages)
    named = named_parameters(module)
    return LoadedProgram(
        artifact=artifact,
        module=module,
        names=_names(module),
        asynchronous=_asynchronous(module),
        stateful=type(module) not in _STATELESS,
        left_out=frozenset(
            field.name
            for field in artifact.signature.inputs
            if field.optional and field.name not in named
        ),
    )


def current_predictor() -> str | None:
    """The predictor whose LM call this is, as `named_predictors` calls it ("draft.predict").

    For the routed engine, in whatever task or thread DSPy calls it. None outside a run, and for
    predictors that a program makes while it runs.
    """
    names = _settings.get(_NAMES) or {}
    callers = _settings.get("caller_modules") or ()
    return next((names[id(c)] for c in reversed(callers) if id(c) in names), None)


def predictor_settings(module: Any) -> dict[str, Any]:
    """DSPy settings that let `current_predictor` name the predictors of this very copy."""
    return {_NAMES: _names(module)}


def run_setting(name: str) -> Any:
    """What the run was given under this name (`run_program`'s settings), in whatever task or thread
    of it; None without."""
    return _settings.get(name)


async def run_program(
    program: LoadedProgram,
    inputs: Any,
    *,
    lm: Any,
    threads: Executor,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The outputs as plain JSON values.

    `threads` bounds how many sync forwards run at once; a cancelled one ends only when its
    own LM call does. `settings` are added to DSPy's for this request. Raises Invalid before any
    LM call, OutputInvalid after, and what the LM's engine raised if that is one of our errors.
    """
    values = validate_inputs(program.signature, inputs)
    return await _run(program, values, lm, threads, settings or {})


class Step(NamedTuple):
    """What a predictor was asked and answered."""

    predictor: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


async def run_traced(
    program: LoadedProgram,
    inputs: Mapping[str, Any],
    steps: list[Step],
    *,
    lm: Any,
    threads: Executor,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of the prediction, for optimizers: as DSPy would run it, nothing is checked, and
    errors are raised as they are. `steps` gets what its predictors did, of a failed run too."""
    if program.stateful and hasattr(type(program.module), "forward"):
        program = replace(program, asynchronous=False)  # DSPy's optimizers take this path
    module, names = _copy_of(program)
    trace: list[Any] = []
    told = {_NAMES: names, SETTING: find_scope(), "callbacks": [], "trace": trace}
    with _settings.context(**{**_quiet(program, lm, None), **told, **(settings or {})}):
        try:
            return _fields(await _call(program, module, dict(inputs), threads))
        finally:
            steps += [
                Step(names[id(predictor)], dict(asked), dict(answered.items()))
                for predictor, asked, answered in trace
                if id(predictor) in names
            ]


async def call_quietly(call: Callable[[], Any], *, lm: Any, threads: Executor) -> Any:
    """What a user's own function gives (a metric), in a DSPy context of its own: sync code in
    `threads`. Raises what it raises, and our own error where that is the cause."""
    settings = {**_unobserved(lm), SETTING: find_scope(), "adapter": None, "callbacks": []}
    with _settings.context(**settings):
        run = partial(contextvars.copy_context().run, call)
        try:
            found = await asyncio.get_running_loop().run_in_executor(threads, run)
            return await found if inspect.isawaitable(found) else found
        except Exception as error:
            failure = _ours(error)
    raise failure


async def stream_program(
    program: LoadedProgram,
    inputs: Any,
    *,
    lm: Any,
    threads: Executor,
    settings: Mapping[str, Any] | None = None,
) -> AsyncGenerator[DeltaEvent | OutputsEvent, None]:
    """Deltas as they come, then the outputs; errors as `run_program`, deltas or not before.

    Closing the generator cancels the run and with it the upstream call. A program without an
    async path yields its outputs only.
    """
    values = validate_inputs(program.signature, inputs)
    events: asyncio.Queue[DeltaEvent | None] = asyncio.Queue()
    sink = _Sink(program.artifact.adapter, events)

    async def run() -> dict[str, Any]:
        try:
            return await _run(program, values, lm, threads, settings or {}, sink)
        finally:
            events.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (event := await events.get()) is not None:
            yield event
        yield {"type": "outputs", "outputs": await task}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(
    program: LoadedProgram,
    values: dict[str, Any],
    lm: Any,
    threads: Executor,
    settings: Mapping[str, Any],
    sink: _Sink | None = None,
) -> dict[str, Any]:
    module, names = _copy_of(program)
    # A sync forward cannot stream: DSPy would call back into a loop that is not its thread's.
    stream = sink if program.asynchronous else None
    given = {k: v for k, v in values.items() if v is not None or k not in program.left_out}
    told = {_NAMES: names, SETTING: find_scope(), "callbacks": module_spans(names)}
    quiet = {**_quiet(program, lm, stream), **told, **settings}
    with _settings.context(**quiet):
        try:
            prediction = await _call(program, module, given, threads)
        except Exception as error:
            failure = _ours(error)
        else:
            return validate_outputs(program.signature, _fields(prediction))
    raise failure  # out here: its context would be DSPy's error, which quotes the answer


def _copy_of(program: LoadedProgram) -> tuple[Any, Mapping[int, str]]:
    """The module of one request, and its predictors' names."""
    if not program.stateful:
        return program.module, program.names
    module = program.module.deepcopy()
    return module, _names(module)


async def _call(
    program: LoadedProgram, module: Any, given: dict[str, Any], threads: Executor
) -> Any:
    if program.asynchronous:
        return await module.acall(**given)
    call = partial(contextvars.copy_context().run, partial(module, **given))
    return await asyncio.get_running_loop().run_in_executor(threads, call)


def _quiet(program: LoadedProgram, lm: Any, stream: _Sink | None) -> dict[str, Any]:
    """DSPy's settings of a request: nothing accumulates, nothing of another run shines through."""
    adapter = adapter_for(program.artifact.adapter)
    return {**_unobserved(lm), "adapter": adapter, "send_stream": stream}


def _unobserved(lm: Any) -> dict[str, Any]:
    return {
        "lm": lm,
        "disable_history": True,
        "trace": None,
        "track_usage": False,
        "usage_tracker": None,
        "caller_modules": None,
        "caller_predict": None,
        "send_stream": None,
        "stream_listeners": [],
        "warn_on_type_mismatch": False,  # its warning prints the value
    }


class _Sink:
    """What DSPy takes for the send end of a stream: chunks come in, field deltas go out."""

    def __init__(self, adapter: AdapterName, events: asyncio.Queue[DeltaEvent | None]) -> None:
        self._adapter = adapter
        self._events = events
        self._answers: dict[int, tuple[Any, FieldReader]] = {}

    async def send(self, chunk: Any) -> None:
        """Runs in the context of the calling predictor, which is how it knows which one it is."""
        callers = _settings.caller_modules
        if not callers or not isinstance(callers[-1], dspy.Predict):
            return  # an LM that a program calls itself answers in no fields
        # DSPy makes this list anew for each call of a module: it tells concurrent answers of one
        # predictor apart. Kept beside the reader, so that no other list gets its id.
        key = id(callers)
        if key not in self._answers:
            outputs = callers[-1].signature.output_fields
            self._answers[key] = (callers, field_reader(self._adapter, outputs))
        reader = self._answers[key][1]
        choice = chunk.choices[0]
        if choice.delta.content:
            self._put(reader.feed(choice.delta.content))
        if choice.finish_reason is not None:
            del self._answers[key]
            self._put(reader.finish())

    def _put(self, deltas: list[Delta]) -> None:
        predictor = current_predictor()
        for field, text in deltas:
            self._events.put_nowait(
                {"type": "delta", "predictor": predictor, "field": field, "text": text}
            )


def _names(module: Any) -> dict[int, str]:
    return {id(predictor): name for name, predictor in module.named_predictors()}


def _asynchronous(module: Any) -> bool:
    """Whether it and all modules inside have `aforward`; one without forward has no other way."""
    if not hasattr(type(module), "forward"):
        return True
    inside = [part for _, part in module.named_sub_modules(dspy.Module)]
    return all(hasattr(type(part), "aforward") for part in inside)


def _fields(prediction: Any) -> dict[str, Any]:
    if isinstance(prediction, dspy.Example | Mapping):
        return dict(prediction.items())
    raise OutputInvalid(
        f"The program returned {type(prediction).__name__}, not a Prediction",
        field="outputs",
        rule="type",
    )


def _ours(error: Exception) -> Exception:
    """The error as this project says it; the error itself when it is the program's own.

    DSPy wraps what an engine raises, and its messages quote answers, which ours must not.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DspexRayError):
            return cause
        cause = cause.__cause__
    if isinstance(error, AdapterParseError):
        wanted = list(error.signature.output_fields)
        return OutputInvalid(
            f"The model's answer does not hold the fields {', '.join(wanted)} as asked for",
            field=wanted[0],
            rule="format",
        )
    if isinstance(error, dspy.LMError):
        return ProviderDown(f"The language model failed: {error.code}", reason=error.code)
    return error
