"""What a run is asked to do: found in the registries, checked, and estimated, before anything is
written."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version as installed
from typing import Any, NamedTuple

from dspex_ray.core.actor import Actor
from dspex_ray.core.canonical import canonical_json
from dspex_ray.core.errors import Conflict, Invalid
from dspex_ray.core.ids import OptimizationId
from dspex_ray.datasets.model import Dataset, DatasetVersion, Example
from dspex_ray.datasets.rules import split_fingerprint
from dspex_ray.datasets.store import examples_at, hashes
from dspex_ray.db.engine import Read
from dspex_ray.evaluation.metrics import Metric, resolve_metric
from dspex_ray.evaluation.rules import check_examples, check_metrics
from dspex_ray.evaluation.targets import artifact_target, find_dataset_version, find_version
from dspex_ray.models.model import Model
from dspex_ray.models.store import find_model_by_id, get_model
from dspex_ray.models.tokenizers import estimate_call_cost
from dspex_ray.optimization.estimate import Sizes, call_size, estimate
from dspex_ray.optimization.figures import check_names, check_priced
from dspex_ray.optimization.model import Problem
from dspex_ray.optimization.registry import Optimizer, Registry
from dspex_ray.optimization.remeasure import calls_kept, versions_planned
from dspex_ray.optimization.rules import OptimizerParameters, check_problem
from dspex_ray.optimization.run_rules import parts_by_name
from dspex_ray.optimization.runs import (
    DEV,
    TEST,
    TRAIN,
    NewOptimization,
    OptimizationRun,
    RunEstimate,
    SeenExample,
)
from dspex_ray.programs.model import Artifact, ModulesArtifact, Program, ProgramVersion
from dspex_ray.programs.rules import predictor_names
from dspex_ray.settings import OptimizationSettings

_SAMPLED = 50  #: examples that the estimate looks at
_PACKAGES = ("dspex-ray", "dspy", "gepa", "numpy", "optuna", "ray")


class Asked(NamedTuple):
    """What was asked for, as it was found. `optimizer` is the name that an alias stands for,
    `parameters` have their defaults, `shown` are some train examples, `models` all that may be
    called."""

    new: NewOptimization
    program: Program
    base: ProgramVersion
    dataset: Dataset
    data: DatasetVersion
    hashes: list[str]
    parts: dict[str, tuple[int, ...]]
    optimizer: str
    parameters: OptimizerParameters
    metrics: list[Metric]
    shown: list[Example]
    models: list[Model]

    @property
    def seen(self) -> list[SeenExample]:
        return [
            SeenExample(hash=self.hashes[position], part=part)
            for part, positions in self.parts.items()
            for position in positions
        ]

    @property
    def calls_a_run(self) -> int:
        """LM calls of one run of the program and its judging, about."""
        judging = sum(len(metric.models) for metric in self.metrics)
        return len(predictor_names(self.base.artifact)) + judging

    @property
    def held_out_calls(self) -> int:
        """LM calls kept for the test examples. Raises Invalid when they leave none."""
        planned = versions_planned(self.new.register_best, self.parameters.model_dump())
        test = len(self.parts.get(TEST, ()))
        return calls_kept(planned, test, self.calls_a_run, self.new.budget)


async def find_asked(
    conn: Read,
    actor: Actor,
    new: NewOptimization,
    known: Registry,
    now: datetime,
    *,
    allowed_packages: tuple[str, ...],
) -> Asked:
    """Raises Invalid, NotFound or Conflict for what could not be run, naming field and rule."""
    parameters = known.parameters(new.optimizer, new.parameters)
    optimizer = known.get(new.optimizer)
    specs = (new.metric, *new.metrics)
    metrics = await asyncio.to_thread(
        lambda: [resolve_metric(spec, allowed_packages=allowed_packages) for spec in specs]
    )
    project = actor.project_id
    dataset, data = await find_dataset_version(conn, project, new.dataset)
    digests = await hashes(conn, data.id)
    parts = parts_by_name(digests, new.examples)
    program, base = await find_version(conn, project, new.program)
    check_metrics(specs, base.artifact.signature)
    check_examples(specs, base.artifact.signature, data)
    target = await artifact_target(conn, program, base.artifact, model=new.model, now=now)
    shown = await examples_at(conn, data.id, parts[TRAIN][:_SAMPLED])
    check_problem(optimizer.name, optimizer.needs, _stand_in(base.artifact, shown, parts, new))
    found = [await find_model_by_id(conn, model.id, now) for model in target.models]
    models = [model for model in found if model is not None]
    asked_by_name = [name for metric in metrics for name in metric.models]
    asked_by_name += _models_to_choose_from(parameters, new)
    asked_by_name += [] if new.prompt_model is None else [new.prompt_model]
    models += [await get_model(conn, project, name, now) for name in asked_by_name]
    if (embeds := _embedding_model(optimizer, new)) is not None:
        await get_model(conn, project, embeds, now)  # it answers no prompt: no part of the estimate
    _check_figures(parameters, metrics, models)
    return Asked(
        new=new,
        program=program,
        base=base,
        dataset=dataset,
        data=data,
        hashes=digests,
        parts=parts,
        optimizer=optimizer.name,
        parameters=parameters,
        metrics=metrics,
        shown=shown,
        models=models,
    )


def _check_figures(
    parameters: OptimizerParameters, metrics: Sequence[Metric], models: Sequence[Model]
) -> None:
    """Raises Invalid for objectives and limits that could not be measured."""
    objectives = getattr(parameters, "objectives", None)
    if objectives is None:
        return
    limits = getattr(parameters, "limits", ())
    check_names(objectives, limits, [metric.name for metric in metrics[1:]])
    unpriced = [m.name for m in models if estimate_call_cost(1, 1, m.price) is None]
    check_priced(objectives, limits, unpriced)


def _models_to_choose_from(parameters: OptimizerParameters, new: NewOptimization) -> list[str]:
    """Raises Invalid when the run has a model of its own, which would answer in place of each."""
    names = list(getattr(parameters, "models", ()))
    if names and new.model is not None:
        raise Invalid(
            f"`model` ({new.model}) would answer for every model of `parameters.models`",
            field="model",
            rule="model or parameters.models",
        )
    return names


def _embedding_model(optimizer: Optimizer, new: NewOptimization) -> str | None:
    """Raises Invalid where it would be of no use."""
    if new.embedding_model is not None and not optimizer.needs.embedding_model:
        raise Invalid(
            f"{optimizer.name} has no use for an embedding model",
            field="embedding_model",
            rule="used by the optimizer",
        )
    return new.embedding_model


def estimated(asked: Asked, settings: OptimizationSettings) -> RunEstimate:
    """What it comes to at most, about, and whether it must be confirmed."""
    sizes = Sizes(
        predictors=len(predictor_names(asked.base.artifact)),
        train=len(asked.parts[TRAIN]),
        dev=len(asked.parts[DEV]),
        prompts=asked.new.prompt_model is not None,
        metric_calls=sum(len(metric.models) for metric in asked.metrics),
        held_out_calls=asked.held_out_calls,
    )
    artifact, shown = asked.base.artifact, asked.shown
    prompt, answer = call_size(
        artifact.signature.instructions or "",
        sum(len(canonical_json(example.values)) for example in shown) / max(1, len(shown)),
        [*_answer_limits(artifact), *(model.max_tokens for model in asked.models)],
    )
    figures = estimate(
        asked.optimizer,
        asked.parameters.model_dump(),
        sizes,
        asked.new.budget,
        tokens_per_call=prompt,
        answer_tokens=answer,
        models=asked.models,
    )
    calls, usd = figures.lm_calls, figures.cost_usd
    dear = calls is None or calls > settings.confirm_lm_calls
    dear = dear or (usd is not None and usd > settings.confirm_usd)
    return figures.model_copy(update={"needs_confirmation": dear})


def unconfirmed(figures: RunEstimate, settings: OptimizationSettings) -> Conflict:
    """The refusal of a dear run, with its estimate."""
    calls = "an unknown number of" if figures.lm_calls is None else f"up to {figures.lm_calls}"
    usd = "an unknown price" if figures.cost_usd is None else f"{figures.cost_usd:.4g} USD"
    return Conflict(
        f"this run comes to {calls} LM calls at {usd} ({figures.basis}); above "
        f"{settings.confirm_lm_calls} calls or {settings.confirm_usd} USD it must be confirmed: "
        "give it a budget, or ask again with confirm: true",
        field="confirm",
        rule="confirmed",
        estimate=figures.model_dump(mode="json"),
    )


def run_of(
    asked: Asked, figures: RunEstimate, actor: Actor, run_id: OptimizationId, now: datetime
) -> OptimizationRun:
    """The run, pending, with all that a rerun needs to know."""
    other = {"program", "dataset", "optimizer", "parameters", "confirm"}
    return OptimizationRun(
        **asked.new.model_dump(exclude=other),
        id=run_id,
        project_id=actor.project_id,
        program_id=asked.program.id,
        program=asked.program.name,
        version_id=asked.base.id,
        version=asked.base.number,
        artifact_hash=asked.base.hash,
        dataset_id=asked.dataset.id,
        dataset=asked.dataset.name,
        dataset_version=asked.data.number,
        train_examples=len(asked.parts[TRAIN]),
        dev_examples=len(asked.parts[DEV]),
        test_examples=len(asked.parts.get(TEST, ())),
        held_out_calls=asked.held_out_calls,
        fingerprint=split_fingerprint(asked.hashes, asked.parts),
        optimizer=asked.optimizer,
        parameters=asked.parameters.stored(),
        packages=_packages(),
        estimate=figures,
        created_by=actor.name,
        created_at=now,
        updated_at=now,
    )


def _stand_in(
    artifact: Artifact,
    shown: Sequence[Example],
    parts: dict[str, tuple[int, ...]],
    new: NewOptimization,
) -> Problem:
    """The problem by its sizes: a few train examples in place of all."""
    some = tuple(shown[:1])
    train = (*shown, *(some * (len(parts[TRAIN]) - len(shown))))
    unused: Any = None
    dev = some * len(parts[DEV])
    return Problem(artifact=artifact, train=train, dev=dev, metric=unused, budget=new.budget)


def _answer_limits(artifact: Artifact) -> list[int | None]:
    if isinstance(artifact, ModulesArtifact):
        return [module.config.max_tokens for module in artifact.modules.values()]
    return [config.get("max_tokens") for config in artifact.predictor_configs.values()]


@cache
def _packages() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: installed(name) for name in _PACKAGES}
