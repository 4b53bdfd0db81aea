"""What follows from wanted placements and from what Serve shows of them; what a spec may ask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Conflict, Invalid
from dspex_ray.core.ids import ProjectId, VersionId
from dspex_ray.core.masking import is_secret_field
from dspex_ray.placements.model import (
    DedicatedPlace,
    NewPlacement,
    Placement,
    PlacementStatus,
    Resources,
    RuntimeEnv,
    SeenApplication,
)

PREFIX = "program-"
_RETRY_S = 30.0
_RETRY_MAX_S = 600.0
_REASON = 500  # characters
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9,._-]+\])?==[\w.!+-]+")
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|errors\.\w+): .*", re.M)
# They change what code a process runs, or belong to the instance.
_RESERVED = re.compile(r"(DSPEX_|RAY_|LD_|PYTHON|PIP_|UV_).*|PATH|HOME|VIRTUAL_ENV", re.IGNORECASE)

Nodes = Sequence[Mapping[str, float]]


class Act(StrEnum):
    CREATE = "create"  #: make the application, or make it anew
    DELETE = "delete"  #: end the application; requests under way are finished
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    LOSE = "lose"
    RETRY = "retry"
    UNSERVE = "unserve"  #: the application that took the traffic is gone
    FORGET = "forget"  #: the placement itself


class Action(NamedTuple):
    """What to do next. `placement` None: the application belongs to none."""

    act: Act
    application: str
    placement: Placement | None = None
    reason: str | None = None


# --- what a spec may ask -------------------------------------------------------------------


def check_runtime_env(
    wanted: RuntimeEnv, *, packages: Sequence[str], addresses: Sequence[str]
) -> None:
    """Raises Invalid for what the instance does not allow. `packages` are names; `addresses` what
    an archive's address begins with."""
    for name in wanted.env_vars:
        field = f"runtime_env.env_vars.{name}"
        if is_secret_field(name):
            raise Invalid(
                f"{name} is named as a secret, and a runtime_env can be read in Ray's dashboard: "
                "set it in the nodes' environment",
                field=field,
                rule="no secrets",
            )
        if _RESERVED.fullmatch(name):
            raise Invalid(f"{name} belongs to the platform", field=field, rule="not reserved")
    allowed = {_normal(package) for package in packages}
    for package in wanted.pip:
        found = _PACKAGE.fullmatch(package)
        if found is None:
            raise Invalid(
                f"{package[:100]!r} must read 'name==version'", field="runtime_env.pip", rule="pin"
            )
        if _normal(found["name"]) not in allowed:
            raise Invalid(
                f"package {found['name']!r} is not among DSPEX_RAY_PLACEMENT__PACKAGES",
                field="runtime_env.pip",
                rule="allowed package",
            )
    given = {"working_dir": (wanted.working_dir,), "py_modules": wanted.py_modules}
    for name, archives in given.items():
        for archive in archives:
            if archive is not None and not archive.startswith(tuple(addresses)):
                raise Invalid(
                    "the address does not begin as one of DSPEX_RAY_PLACEMENT__ARCHIVES",
                    field=f"runtime_env.{name}",
                    rule="allowed address",
                )


def application_name(
    program: str, number: int, project_id: ProjectId, version_id: VersionId, spec: NewPlacement
) -> str:
    """Another spec is another application: the old one serves until the new one can."""
    mark = content_hash([str(project_id), str(version_id), spec.model_dump(mode="json")])[:8]
    return f"{PREFIX}{program}-v{number}-{mark}"


# --- where a version is served -------------------------------------------------------------


def place_of(placement: Placement) -> DedicatedPlace | None:
    """None: `shared`."""
    if placement.status is PlacementStatus.DRAINING:
        return None
    if placement.serving is not None:
        return DedicatedPlace(application=placement.serving)
    return None if placement.takes_over else DedicatedPlace(application=None, reason=why(placement))


def why(placement: Placement) -> str:
    """Why it takes no traffic."""
    told = placement.reason or "its replicas have not started yet"
    return f"its dedicated placement is {placement.status.value!r}: {told}"


def require_traffic(placement: Placement | None) -> None:
    """Raises Conflict when more traffic may not be given to this version. None: it is `shared`."""
    if placement is None or placement.status is PlacementStatus.DRAINING or placement.serving:
        return
    raise Conflict(
        f"version {placement.version} of {placement.program!r} cannot take traffic: "
        f"{why(placement)}",
        reason=placement.reason,
    )


# --- what to do next -----------------------------------------------------------------------


def plan(
    placements: Sequence[Placement],
    seen: Mapping[str, SeenApplication],
    nodes: Nodes,
    now: datetime,
    *,
    start_timeout_s: float,
    applied: bool,
) -> list[Action]:
    """What makes Serve's applications those that are wanted, and says how far they are.

    `nodes`: the total resources of each node alive. `applied`: every gateway has a configuration
    at least as new as these placements; nothing is deleted before. Doing an action twice changes
    nothing that doing it once has not; so does stopping between two.
    """
    actions: list[Action] = []
    for placement in placements:
        if placement.status is PlacementStatus.DRAINING:
            if placement.application not in seen:
                actions.append(Action(Act.FORGET, placement.application, placement))
            continue
        serving = placement.serving
        if serving not in (None, placement.application) and _is_gone(seen.get(str(serving))):
            actions.append(Action(Act.UNSERVE, str(serving), placement))
        actions += _next(placement, seen.get(placement.application), nodes, now, start_timeout_s)
    if applied:
        named = {
            name
            for placement in placements
            if placement.status is not PlacementStatus.DRAINING
            for name in (placement.application, placement.serving)
        }
        actions += [
            Action(Act.DELETE, name)
            for name, application in seen.items()
            if name.startswith(PREFIX) and name not in named and application.status != "DELETING"
        ]
    return actions


def _next(
    placement: Placement,
    seen: SeenApplication | None,
    nodes: Nodes,
    now: datetime,
    start_timeout_s: float,
) -> Iterator[Action]:
    name, status = placement.application, placement.status
    if status is PlacementStatus.READY:
        yield from _watch(placement, seen)
        return
    if seen is None:
        yield Action(Act.CREATE, name, placement)
    if seen is not None and seen.status == "DELETING":
        return  # it was given up and is wanted again: made anew once it is gone
    if status is PlacementStatus.PENDING:
        yield Action(Act.START, name, placement)
    elif status is PlacementStatus.STARTING:
        yield from _await(placement, seen, nodes, now, start_timeout_s)
    elif seen is None:
        yield Action(Act.RETRY, name, placement)
    elif seen.status == "RUNNING":
        yield Action(Act.SUCCEED, name, placement)
    elif seen.status == "DEPLOY_FAILED" and _elapsed_s(placement, now) >= _pause_s(placement):
        # Serve has given it up; whatever else it says, it goes on by itself.
        yield Action(Act.CREATE, name, placement)
        yield Action(Act.RETRY, name, placement)


def _watch(placement: Placement, seen: SeenApplication | None) -> Iterator[Action]:
    """A ready one. Replicas that died are replaced by Serve; while others run it goes on."""
    if seen is None or _is_gone(seen):
        yield Action(Act.LOSE, placement.application, placement, "its application was lost")
    elif seen.status in {"UNHEALTHY", "DEPLOY_FAILED"} and not seen.running:
        yield Action(Act.FAIL, placement.application, placement, _told(seen))


def _await(
    placement: Placement,
    seen: SeenApplication | None,
    nodes: Nodes,
    now: datetime,
    start_timeout_s: float,
) -> Iterator[Action]:
    name = placement.application
    if seen is not None and seen.status == "RUNNING":
        yield Action(Act.SUCCEED, name, placement)
    elif seen is not None and seen.status in {"DEPLOY_FAILED", "UNHEALTHY"}:
        yield Action(Act.FAIL, name, placement, _told(seen))
    elif (lack := lacking(placement.spec.resources, nodes)) is not None:
        yield Action(Act.FAIL, name, placement, lack)
    elif _elapsed_s(placement, now) > start_timeout_s:
        told = "" if seen is None or not seen.message else f": {_told(seen)}"
        reason = f"no replica started within {start_timeout_s:g} s{told}"
        yield Action(Act.FAIL, name, placement, reason)


def lacking(resources: Resources, nodes: Nodes) -> str | None:
    """What no node has enough of, even when idle; None when one node has all of it."""
    needed = resources.needed
    if not nodes or any(
        all(node.get(kind, 0.0) >= amount for kind, amount in needed.items()) for node in nodes
    ):
        return None
    largest = {kind: max(node.get(kind, 0.0) for node in nodes) for kind in needed}
    short = [
        f"{amount:g} {kind} (the most that one has: {largest[kind]:g})"
        for kind, amount in needed.items()
        if largest[kind] < amount
    ]
    return f"no node has {', '.join(short) or 'all of its resources at once'}"


def _is_gone(seen: SeenApplication | None) -> bool:
    return seen is None or seen.status == "DELETING"


def _elapsed_s(placement: Placement, now: datetime) -> float:
    return (now - placement.since).total_seconds()


def _pause_s(placement: Placement) -> float:
    """Before Serve is asked again: 30 s, then twice as long each time, 10 minutes at most."""
    return float(min(_RETRY_MAX_S, _RETRY_S * 2 ** min(placement.failures - 1, 10)))


def _told(seen: SeenApplication) -> str:
    """Serve's message; of a traceback, the error at its end."""
    raised = list(_RAISED.finditer(seen.message))
    text = " ".join((raised[-1][0] if raised else seen.message).split())
    return text[:_REASON] if text else f"Serve says {seen.status}"


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
