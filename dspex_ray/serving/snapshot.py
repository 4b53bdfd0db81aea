"""What a gateway replica knows: an immutable picture of the configuration, free of SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from dspex_ray.access.rules import KeyRecord
from dspex_ray.core.errors import Conflict, NotFound, Unavailable
from dspex_ray.core.ids import ModelId, ProgramId, ProjectId, VersionId
from dspex_ray.models.model import Model, ModelStats
from dspex_ray.placements.model import DedicatedPlace
from dspex_ray.programs.model import Program
from dspex_ray.routing.model import ProgramModel
from dspex_ray.serving.model import Split
from dspex_ray.serving.split import choose_version

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version that can be served; the artifact is built on first use. `placement` None: in
    the process of whoever picks it."""

    id: VersionId
    number: int
    hash: str
    artifact: dict[str, Any]
    placement: DedicatedPlace | None = None

    @property
    def pins(self) -> Mapping[str, str]:
        """The names of the models that it pins, by predictor; "" stands for all others."""
        pins: dict[str, str] = self.artifact.get("models", {})
        return pins

    @property
    def input_names(self) -> list[str]:
        return [field["name"] for field in self.artifact["signature"]["inputs"]]


@dataclass(frozen=True, slots=True)
class ServedProgram:
    program: Program
    versions: Mapping[int, ServedVersion]
    split: Split | None

    @property
    def unavailable(self) -> frozenset[int]:
        """Versions that have a place of their own which cannot take a request now."""
        return frozenset(
            number
            for number, version in self.versions.items()
            if version.placement is not None and version.placement.application is None
        )


@dataclass(frozen=True, slots=True)
class Pick:
    """The version that serves a request, and the part of the split that led to it."""

    program: Program
    version: ServedVersion
    epoch: int | None = None
    propensity: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the configuration. `version` 0 = nothing was read yet."""

    version: int = 0
    taken_at: datetime = _NEVER
    keys: Mapping[str, KeyRecord] = field(default_factory=dict)
    models: Mapping[ModelId, Model] = field(default_factory=dict)
    model_ids: Mapping[tuple[ProjectId, str], ModelId] = field(default_factory=dict)
    provider_keys: Mapping[ModelId, SecretStr | None] = field(default_factory=dict)
    programs: Mapping[tuple[ProjectId, str], ServedProgram] = field(default_factory=dict)
    assignments: Mapping[ProgramId, tuple[ProgramModel, ...]] = field(default_factory=dict)
    routes: Mapping[tuple[ProjectId, str], tuple[ProgramModel, ...]] = field(default_factory=dict)
    replicas: int = 1  #: replicas alive that call models: each takes its share of their limits
    gateways: int = 1  #: those of them that take requests: each takes its share of keys' limits

    def model(self, project: ProjectId, name: str) -> Model:
        """Raises NotFound."""
        identifier = self.model_ids.get((project, name))
        if identifier is None:
            raise NotFound(f"no model {name!r} in this project", kind="model", name=name)
        return self.models[identifier]

    def served(self, project: ProjectId, name: str) -> ServedProgram:
        """Raises NotFound."""
        found = self.programs.get((project, name))
        if found is None:
            raise NotFound(f"no program {name!r} in this project", kind="program", name=name)
        return found

    def pick(self, project: ProjectId, reference: str, unit: str, now: datetime) -> Pick:
        """The version that `name`, `name@<number>` or `name@<label>` means for this unit.

        A bare name means the program's split, else its version labelled `production`, else
        Conflict. Raises NotFound for an unknown program, version or label.
        """
        name, _, selector = reference.partition("@")
        found = self.served(project, name)
        if selector:
            return Pick(found.program, self._selected(found, selector))
        if found.split is not None:
            choice = choose_version(found.split, unit, now, found.unavailable)
            version = self._numbered(found, choice.version)
            return Pick(found.program, version, choice.epoch, choice.propensity)
        number = found.program.labels.get("production")
        if number is None:
            raise Conflict(
                f"program {name!r} has neither a split nor a version labelled 'production': "
                f"say which version, as in '{name}@1'"
            )
        return Pick(found.program, self._numbered(found, number))

    def _selected(self, found: ServedProgram, selector: str) -> ServedVersion:
        if selector.isdecimal():
            return self._numbered(found, int(selector))
        number = found.program.labels.get(selector)
        if number is None:
            labels = ", ".join(sorted(found.program.labels)) or "none"
            raise NotFound(
                f"program {found.program.name!r} has no label {selector!r} (labels: {labels})"
            )
        return self._numbered(found, number)

    def _numbered(self, found: ServedProgram, number: int) -> ServedVersion:
        version = found.versions.get(number)
        if version is not None:
            place = version.placement
            if place is not None and place.application is None:
                raise Unavailable(
                    f"version {number} of {found.program.name!r} cannot be served: {place.reason}",
                    retry_after_s=5,
                )
            return version
        newest = found.program.latest_version or 0
        if 1 <= number <= newest:
            raise Conflict(
                f"version {number} of {found.program.name!r} is not loaded (the gateway holds "
                "labelled versions, arms of the split and the newest): give it a label"
            )
        raise NotFound(f"program {found.program.name!r} has no version {number} (newest: {newest})")


@dataclass(slots=True)
class Configuration:
    """The replica's current snapshot and figures. One writer (the refresher) swaps whole
    values; readers take the reference once per request."""

    snapshot: Snapshot = field(default_factory=Snapshot)
    figures: Mapping[ModelId, ModelStats] = field(default_factory=dict)
    figures_at: datetime | None = None
    lost_with_nodes: int = 0  #: records of the whole cluster
    database_reachable: bool = True
    wanted_checks: set[ModelId] = field(default_factory=set)
