"""An artifact as the module that DSPy's optimizers work on, and back.

DSPy's state JSON leaves a predictor's config out and says fields by position: what comes back is
the artifact it came from, with the instructions and demos that the optimizer left on it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import dspy

from dspex_ray.core.errors import Invalid
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.edits import with_demos, with_instructions
from dspex_ray.programs.build import build
from dspex_ray.programs.imports import named_parameters, structure_hash, without_lms
from dspex_ray.programs.model import Artifact, ImportArtifact
from dspex_ray.programs.runtime import predictor_settings
from dspex_ray.programs.validation import validate_inputs

Forward = Callable[[Any, Callable[..., Any], dict[str, Any]], Any]


def run_here(module: Any, original: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """A student's forward in the thread that calls it: its LM calls know their predictor.

    Another Forward may run it elsewhere; it must then add to DSPy's trace what the run added,
    with the predictors of this `module`.
    """
    with dspy.context(**predictor_settings(module)):
        return original(**inputs)


def student_of(
    artifact: Artifact,
    *,
    allowed_packages: Iterable[str],
    loop: asyncio.AbstractEventLoop,
    forward: Forward = run_here,
) -> Any:
    """The module, runnable from DSPy's threads also when it has an async path only (on `loop`).

    Its class is the artifact's with another `forward`, which copies inherit.
    """
    module = build(artifact, allowed_packages=allowed_packages)
    kind = type(module)

    def called(self: Any, **inputs: Any) -> Any:
        return forward(self, partial(_original(kind), self, loop), inputs)

    method = getattr(kind, "forward", None) or kind.aforward
    called.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    # Under the class's own name: MIPROv2 shows the class's source to its prompt model.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "forward": called}
    module.__class__ = type(kind.__name__, (kind,), names)
    return module


def shared_temperature(module: Any) -> float | None:
    """The temperature of all predictors, taken out of their configs; None when they differ.

    A predictor's own would win over the one that optimizers set on their LM, and all that they
    sample would be the same answer.
    """
    predictors = module.predictors()
    found = {predictor.config.get("temperature") for predictor in predictors}
    if len(found) != 1 or found == {None}:
        return None
    for predictor in predictors:
        predictor.config = {k: v for k, v in predictor.config.items() if k != "temperature"}
    return float(found.pop())


def instructions_in(module: Any) -> dict[str, str]:
    """By predictor: what `artifact_of` compares with, taken when the module is fresh."""
    return {name: str(p.signature.instructions) for name, p in module.named_predictors()}


def artifact_of(module: Any, origin: Artifact, fresh: Mapping[str, str]) -> Artifact:
    """`origin` with the module's instructions and demos. LMs stay out.

    `fresh` are the instructions that the module had at first: DSPy makes some up where there are
    none, and those stay out. Raises Invalid when the module has another structure than the
    origin, or holds what JSON cannot.
    """
    if isinstance(origin, ImportArtifact):
        return _imported(module, origin)
    found: Artifact = origin
    for name, predictor in module.named_predictors():
        told = str(predictor.signature.instructions)
        if told != fresh.get(name):
            found = with_instructions(found, name, told)
        found = with_demos(found, name, [_plain(demo) for demo in predictor.demos])
    return found


def dspy_examples(artifact: Artifact, examples: Sequence[Example], module: Any) -> list[Any]:
    """`dspy.Example`s with the program's inputs, checked, and all that was expected.

    Raises Invalid naming the first row that the signature refuses.
    """
    signature = artifact.signature
    names = [field.name for field in signature.inputs]
    known = named_parameters(module) if isinstance(artifact, ImportArtifact) else {}
    found = []
    for example in examples:
        given = {name: example.values[name] for name in names if name in example.values}
        try:
            inputs = validate_inputs(signature, given)
        except Invalid as error:
            where = f"examples[{example.number}].{error.field}"
            message = f"example {example.number}: {error.message}"
            raise Invalid(message, field=where, rule=error.rule) from None
        kept = {n: v for n, v in inputs.items() if v is not None or n in known}
        expected = {k: v for k, v in example.values.items() if k not in names and v is not None}
        found.append(dspy.Example(**kept, **expected).with_inputs(*kept))
    return found


def _original(kind: type[Any]) -> Callable[..., Any]:
    forward = getattr(kind, "forward", None)
    if forward is not None:
        return lambda self, _loop, **inputs: forward(self, **inputs)

    def on_loop(self: Any, loop: asyncio.AbstractEventLoop, **inputs: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(kind.aforward(self, **inputs), loop).result()

    return on_loop


def _imported(module: Any, origin: ImportArtifact) -> ImportArtifact:
    if structure_hash(module) != origin.structure_hash:
        raise Invalid(
            f"the optimizer left another structure than {origin.path} has",
            field="program",
            rule="structure hash",
        )
    state = without_lms(module.dump_state())
    return origin.model_copy(update={"state": {k: _without_traces(v) for k, v in state.items()}})


def _without_traces(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a predictor remembers of runs is no part of the program."""
    kept = dict(part)
    for name in ("traces", "train"):
        if name in kept:
            kept[name] = []
    if "demos" in kept:
        kept["demos"] = [_plain(demo) for demo in kept["demos"]]
    return kept


def _plain(demo: Any) -> dict[str, Any]:
    """A demo's fields, without the mark of the optimizer that made it."""
    return {name: value for name, value in demo.items() if name != "augmented"}
