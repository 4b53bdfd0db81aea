"""Placement: a version that runs as a Serve application of its own, and how far that has come."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, NewType
from uuid import UUID

from pydantic import Field, model_validator

from dspex_ray.core.ids import ProgramId, ProjectId, VersionId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.states import Machine

PlacementId = NewType("PlacementId", UUID)

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
EnvironmentText = Annotated[str, Field(max_length=10_000)]
Uri = Annotated[str, Field(max_length=2_000)]
Package = Annotated[str, Field(max_length=200)]


class Resources(Noun):
    """What each replica takes of its node; `custom` by the names that the nodes give them."""

    num_cpus: float = Field(default=0.1, ge=0, le=10_000)
    memory_bytes: int | None = Field(default=None, ge=1, le=2**50)
    custom: dict[Name, Annotated[float, Field(gt=0, le=1_000_000)]] = Field(
        default_factory=dict, max_length=20
    )

    @property
    def needed(self) -> dict[str, float]:
        """By the names that Ray's nodes use."""
        memory = {} if self.memory_bytes is None else {"memory": float(self.memory_bytes)}
        return {"CPU": self.num_cpus, **memory, **self.custom}


class RuntimeEnv(Noun):
    """What the replicas have besides the platform. It can be read in Ray's dashboard: no secrets.

    `pip` names packages as `name==version`; `py_modules` and `working_dir` are the addresses of
    archives. The settings say which packages and addresses are allowed: none, unless told.
    """

    env_vars: dict[EnvironmentName, EnvironmentText] = Field(default_factory=dict, max_length=100)
    pip: tuple[Package, ...] = Field(default=(), max_length=50)
    py_modules: tuple[Uri, ...] = Field(default=(), max_length=20)
    working_dir: Uri | None = None

    def as_ray(self) -> dict[str, Any]:
        """Without what was not given: an empty entry would have Ray set up an environment."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if value not in (None, {}, [])
        }


class NewPlacement(Noun):
    """How many replicas, of what, and when.

    A replica is wanted for every `target_ongoing_requests` under way. With `min_replicas` 0 the
    last one ends `downscale_delay_s` after the last request; the next request waits for a start.
    `warm_up` are inputs that each new replica runs before it takes traffic; it always builds the
    program.
    """

    resources: Resources = Resources()
    runtime_env: RuntimeEnv = RuntimeEnv()
    min_replicas: int = Field(default=1, ge=0, le=1_000)
    max_replicas: int = Field(default=1, ge=1, le=1_000)
    target_ongoing_requests: float = Field(default=8.0, gt=0, le=1_000)
    downscale_delay_s: float = Field(default=600.0, ge=0, le=86_400)
    warm_up: tuple[dict[str, Any], ...] = Field(default=(), max_length=10)

    @model_validator(mode="after")
    def _in_order(self) -> NewPlacement:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}: over max_replicas, {self.max_replicas}"
            )
        return self


class PlacementStatus(StrEnum):
    PENDING = "pending"  #: wanted
    STARTING = "starting"  #: its application was made
    READY = "ready"  #: takes traffic
    FAILED = "failed"  #: takes none, and `reason` says why; it is tried again
    DRAINING = "draining"  #: served `shared` again; the application ends


PLACEMENT_MACHINE = Machine(
    name="placement",
    initial=PlacementStatus.PENDING,
    moves={
        (PlacementStatus.PENDING, "start"): PlacementStatus.STARTING,
        (PlacementStatus.STARTING, "succeed"): PlacementStatus.READY,
        (PlacementStatus.FAILED, "succeed"): PlacementStatus.READY,
        (PlacementStatus.STARTING, "fail"): PlacementStatus.FAILED,
        (PlacementStatus.READY, "fail"): PlacementStatus.FAILED,
        (PlacementStatus.READY, "lose"): PlacementStatus.STARTING,
        (PlacementStatus.FAILED, "retry"): PlacementStatus.STARTING,
        (PlacementStatus.PENDING, "change"): PlacementStatus.PENDING,
        (PlacementStatus.STARTING, "change"): PlacementStatus.PENDING,
        (PlacementStatus.READY, "change"): PlacementStatus.PENDING,
        (PlacementStatus.FAILED, "change"): PlacementStatus.PENDING,
        (PlacementStatus.DRAINING, "change"): PlacementStatus.PENDING,
        (PlacementStatus.PENDING, "drain"): PlacementStatus.DRAINING,
        (PlacementStatus.STARTING, "drain"): PlacementStatus.DRAINING,
        (PlacementStatus.READY, "drain"): PlacementStatus.DRAINING,
        (PlacementStatus.FAILED, "drain"): PlacementStatus.DRAINING,
    },
)


class Placement(Noun):
    """`application` is the one that its spec wants; `serving` the one that takes its traffic now:
    after a change, the old one until the new one is ready.

    `takes_over`: the version took traffic when it was placed, and is served `shared` as before
    until its first replicas are ready. `failures` counts those since it was last ready or changed.
    """

    id: PlacementId
    project_id: ProjectId
    program_id: ProgramId
    version_id: VersionId
    program: str
    version: int
    spec: NewPlacement
    application: str
    serving: str | None = None
    takes_over: bool = False
    status: PlacementStatus = PlacementStatus.PENDING
    reason: str | None = None
    failures: int = 0
    managed_by: str | None = None
    since: datetime  #: of the status
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class DedicatedPlace(Noun):
    """Where the data plane finds a version; `application` None: nowhere now, as `reason` says."""

    application: str | None
    reason: str | None = None


class SeenApplication(Noun):
    """A Serve application as Serve sees it: its status and message, and how many replicas run."""

    status: str
    message: str = ""
    running: int = 0
