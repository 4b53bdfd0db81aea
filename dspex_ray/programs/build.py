"""An artifact to a `dspy.Module` that is ready to run. No predictor has an LM of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import dspy

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.artifacts import artifact_payload, load_artifact
from dspex_ray.programs.imports import (
    import_class,
    load_state,
    make_instance,
    source_sha256,
    structure_hash,
)
from dspex_ray.programs.model import (
    Artifact,
    ImportArtifact,
    ModulesArtifact,
    ModuleSpec,
    ModuleType,
)
from dspex_ray.programs.rules import levels, split_binding
from dspex_ray.programs.signature import to_dspy


def build(artifact: Artifact, *, allowed_packages: Iterable[str]) -> Any:
    """The module of an artifact.

    Raises Invalid when an import artifact's package is not allowed, or when its source or its
    structure is not the one installed here.
    """
    # By way of JSON, so that a fresh artifact and a stored one make the same prompts.
    artifact = load_artifact(artifact_payload(artifact))
    if isinstance(artifact, ImportArtifact):
        return _imported(artifact, allowed_packages)
    return Pipeline(artifact)


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Predictors as attributes by module name, called in dependency order.

    `acall` runs the modules of a level side by side, `__call__` one after the other.
    """

    def __init__(self, artifact: ModulesArtifact) -> None:
        super().__init__()
        modules = artifact.modules
        self._levels = levels({name: module.inputs for name, module in modules.items()})
        self._bindings = {name: dict(module.inputs) for name, module in modules.items()}
        self._inputs = {
            name: [field.name for field in module.signature.inputs]
            for name, module in modules.items()
        }
        self._outputs = dict(artifact.outputs)
        for level in self._levels:
            for name in level:
                setattr(self, name, _predictor(modules[name]))

    def forward(self, **inputs: Any) -> Any:
        done: dict[str, Any] = {}
        for level in self._levels:
            for name in level:
                done[name] = getattr(self, name)(**self._arguments(name, inputs, done))
        return self._prediction(done)

    async def aforward(self, **inputs: Any) -> Any:
        done: dict[str, Any] = {}
        for level in self._levels:
            calls = {
                name: getattr(self, name).acall(**self._arguments(name, inputs, done))
                for name in level
            }
            done.update(await _together(calls))
        return self._prediction(done)

    def _arguments(
        self, name: str, inputs: Mapping[str, Any], done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The inputs of one module; what the caller left out stays out of the prompt."""
        arguments = {}
        for field in self._inputs[name]:
            if field in self._bindings[name]:
                module, output = split_binding(self._bindings[name][field])
                arguments[field] = done[module][output]
            elif field in inputs:
                arguments[field] = inputs[field]
        return arguments

    def _prediction(self, done: Mapping[str, Any]) -> Any:
        prediction = dspy.Prediction()
        for output, binding in self._outputs.items():
            module, field = split_binding(binding)
            prediction[output] = done[module][field]
        return prediction


async def _together(calls: Mapping[str, Any]) -> dict[str, Any]:
    """Results by name. The first failure cancels the others and is raised as itself."""
    if len(calls) == 1:
        return {name: await call for name, call in calls.items()}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(call) for name, call in calls.items()}
    except BaseExceptionGroup as failures:
        failed = failures.exceptions[0]
    else:
        return {name: task.result() for name, task in tasks.items()}
    raise failed  # out here, to keep its own cause and not gain the group as its context


def _predictor(spec: ModuleSpec) -> Any:
    config = spec.config.model_dump(exclude_none=True)
    stop = config.pop("stop")
    if stop:
        config["stop"] = list(stop)
    signature = to_dspy(spec.signature)
    if spec.type is ModuleType.CHAIN_OF_THOUGHT:
        module = dspy.ChainOfThought(signature, **config)
        predictor = module.predict
    else:
        module = predictor = dspy.Predict(signature, **config)
    predictor.demos = [dict(demo) for demo in spec.demos]
    return module


def _imported(artifact: ImportArtifact, allowed_packages: Iterable[str]) -> Any:
    cls = import_class(artifact.path, allowed_packages)
    _check_same("source", artifact.path, artifact.source_sha256, source_sha256(cls))
    module = make_instance(cls, artifact.kwargs)
    _check_same("structure", artifact.path, artifact.structure_hash, structure_hash(module))
    load_state(module, artifact.state)
    for path, predictor in module.named_predictors():
        predictor.config = dict(artifact.predictor_configs.get(path, predictor.config))
    return module


def _check_same(what: str, path: str, wanted: str, installed: str) -> None:
    if wanted != installed:
        raise Invalid(
            f"The {what} of {path} hashes to {installed} here, the version wants {wanted}",
            field="import_path",
            rule=f"{what} hash",
        )
