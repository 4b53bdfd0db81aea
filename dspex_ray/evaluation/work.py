"""What is to be run, as it crosses to the processes that run it: all that a result depends on."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import Field

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.ids import ModelId, VersionId
from dspex_ray.core.noun import Noun
from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.models.model import Model
from dspex_ray.programs.model import Program
from dspex_ray.routing.model import ProgramModel, RoutingStrategy
from dspex_ray.routing.rules import under_pins
from dspex_ray.traces.model import Source

# What of a registered model its answers depend on; a health check or a price changes none.
_ANSWERS = {"id", "provider", "model_name", "base_url", "config", "max_tokens"}


class PinnedModel(Noun):
    """A model as it was configured when the work was made up. With another fingerprint it is
    another model: work that meets one is ended. `temperature` is what calls get that say none."""

    id: ModelId
    name: str
    fingerprint: str
    temperature: float | None


def pinned(model: Model) -> PinnedModel:
    defaults = model.config.get("defaults") or {}
    return PinnedModel(
        id=model.id,
        name=model.name,
        fingerprint=content_hash(model.model_dump(mode="json", include=_ANSWERS)),
        temperature=defaults.get("temperature"),
    )


class Target(Noun):
    """A program version, or an artifact that is none yet, and the models that answer its calls.

    `hash` is the artifact's. `assignments` are the program's, or the one of a model that was
    asked for instead; `pins` those of the models that the artifact names, none in that case.
    """

    program: Program
    version_id: VersionId | None = None
    version: int | None = None
    artifact: dict[str, Any]
    hash: str
    assignments: tuple[ProgramModel, ...]
    pins: tuple[ProgramModel, ...] = ()
    models: tuple[PinnedModel, ...]

    @property
    def routes(self) -> tuple[ProgramModel, ...]:
        """The assignments by which its calls are routed: those of the program under the pins."""
        return tuple(under_pins(self.pins, self.assignments))

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(field["name"] for field in self.artifact["signature"]["inputs"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(field["name"] for field in self.artifact["signature"]["outputs"])

    @cached_property
    def sampled(self) -> bool:
        """Whether two runs may differ: by a temperature that is not known to be 0, or by a draw
        among models."""
        defaults = {model.temperature for model in self.models}
        temperatures = {
            temperature
            for own in self._temperatures()
            for temperature in (defaults if own is None else {own})
        }
        drawn = RoutingStrategy.LOAD_BALANCED in {row.routing_strategy for row in self.routes}
        return drawn or temperatures != {0}

    def _temperatures(self) -> list[float | None]:
        """Of each predictor; None leaves it to the model."""
        if self.artifact["kind"] == "modules":
            configs = [module["config"] for module in self.artifact["modules"].values()]
        else:
            configs = list(self.artifact["predictor_configs"].values())
        return [config.get("temperature") for config in configs]

    @cached_property
    def configuration(self) -> str:
        """A hash of the artifact and of which model answers which call, however it is named."""
        fingerprints = {model.id: model.fingerprint for model in self.models}
        routes = [
            [
                row.predictor,
                row.routing_strategy.value,
                row.priority,
                row.weight,
                row.conditions.model_dump(mode="json"),
                fingerprints[row.model_id],
            ]
            for row in self.routes
        ]
        return content_hash([self.hash, routes])


class Work(Noun):
    """One run of a target: the same for all its examples. `id` is the evaluation's, or that of
    what asked for the run; records of executions carry it as their rollout."""

    id: UUID
    source: Source
    target: Target
    metrics: tuple[MetricSpec, ...]
    metric_models: tuple[PinnedModel, ...] = ()
    timeout_s: float = 60.0
    seed: int = 0


class Item(Noun):
    """One run of one example."""

    example: Example
    repeat: int = Field(default=0, ge=0)

    @property
    def key(self) -> tuple[int, int]:
        return self.example.number, self.repeat
