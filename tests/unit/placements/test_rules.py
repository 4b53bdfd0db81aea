"""What follows from placements and Serve's applications, and what a spec may ask."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dspex_ray.core.errors import Conflict, Invalid
from dspex_ray.core.ids import DEFAULT_PROJECT, ProgramId, VersionId
from dspex_ray.placements.model import (
    PLACEMENT_MACHINE,
    DedicatedPlace,
    NewPlacement,
    Placement,
    PlacementId,
    PlacementStatus,
    Resources,
    RuntimeEnv,
    SeenApplication,
)
from dspex_ray.placements.rules import (
    Act,
    Action,
    application_name,
    check_runtime_env,
    lacking,
    place_of,
    plan,
    require_traffic,
)
from dspex_ray.testing.fake_clock import NOON

NODES = [{"CPU": 2.0, "memory": 8e9}, {"CPU": 4.0, "gpu-a": 1.0}]
RUNNING = SeenApplication(status="RUNNING", running=1)
STATUSES = ["DEPLOYING", "RUNNING", "UNHEALTHY", "DEPLOY_FAILED", "DELETING", "NOT_STARTED"]
APP = "program-p-v1-new"


def a_placement(status: str = "pending", **fields: Any) -> Placement:
    return Placement(
        **{
            "id": PlacementId(UUID(int=1)),
            "project_id": DEFAULT_PROJECT,
            "program_id": ProgramId(UUID(int=2)),
            "version_id": VersionId(UUID(int=3)),
            "program": "p",
            "version": 1,
            "spec": NewPlacement(),
            "application": APP,
            "status": PlacementStatus(status),
            "since": NOON,
            "created_at": NOON,
            "updated_at": NOON,
            **fields,
        }
    )


def planned(
    placement: Placement | None,
    seen: Mapping[str, SeenApplication],
    *,
    after_s: float = 1,
    applied: bool = True,
) -> list[tuple[str, str, str | None]]:
    now = NOON + timedelta(seconds=after_s)
    held = [] if placement is None else [placement]
    actions = plan(held, seen, NODES, now, start_timeout_s=120, applied=applied)
    return [(action.act.value, action.application, action.reason) for action in actions]


def test_a_wanted_application_is_made_and_awaited() -> None:
    assert planned(a_placement(), {}) == [("create", APP, None), ("start", APP, None)]
    assert planned(a_placement(), {APP: RUNNING}) == [("start", APP, None)]  # died in between
    deploying = {APP: SeenApplication(status="DEPLOYING")}
    assert planned(a_placement("starting"), deploying) == []
    assert planned(a_placement("starting"), {}) == [("create", APP, None)]  # the cluster was lost
    assert planned(a_placement("starting"), {APP: RUNNING}) == [("succeed", APP, None)]
    assert planned(a_placement("ready"), {APP: RUNNING}) == []


def test_one_that_is_scaled_to_zero_is_ready() -> None:
    assert planned(a_placement("ready"), {APP: SeenApplication(status="RUNNING")}) == []


def test_one_that_cannot_start_says_why() -> None:
    said = SeenApplication(
        status="DEPLOY_FAILED",
        message='Error:\n  File "x.py", line 3\n    secret_line()\nmod.errors.Conflict: no models',
    )
    assert planned(a_placement("starting"), {APP: said}) == [
        ("fail", APP, "mod.errors.Conflict: no models")
    ]
    late = {APP: SeenApplication(status="DEPLOYING", message="waiting for\n resources")}
    assert planned(a_placement("starting"), late, after_s=120) == []
    assert planned(a_placement("starting"), late, after_s=121) == [
        ("fail", APP, "no replica started within 120 s: waiting for resources")
    ]
    huge = NewPlacement(resources=Resources(num_cpus=1000))
    assert planned(a_placement("starting", spec=huge), late) == [
        ("fail", APP, "no node has 1000 CPU (the most that one has: 4)")
    ]


def test_a_failed_one_is_tried_again_after_longer_and_longer_pauses() -> None:
    failed = {APP: SeenApplication(status="DEPLOY_FAILED")}
    retry = [("create", APP, None), ("retry", APP, None)]
    assert planned(a_placement("failed", failures=1), failed, after_s=29) == []
    assert planned(a_placement("failed", failures=1), failed, after_s=30) == retry
    assert planned(a_placement("failed", failures=3), failed, after_s=119) == []
    assert planned(a_placement("failed", failures=3), failed, after_s=120) == retry
    assert planned(a_placement("failed", failures=99), failed, after_s=600) == retry
    assert planned(a_placement("failed", failures=1), {}) == retry
    # Serve goes on by itself in every other state.
    assert planned(a_placement("failed"), {APP: SeenApplication(status="DEPLOYING")}) == []
    assert planned(a_placement("failed"), {APP: RUNNING}) == [("succeed", APP, None)]


def test_a_ready_one_fails_when_no_replica_is_left() -> None:
    sick = SeenApplication(status="UNHEALTHY", message="a replica died", running=1)
    assert planned(a_placement("ready"), {APP: sick}) == []
    dead = sick.model_copy(update={"running": 0})
    assert planned(a_placement("ready"), {APP: dead}) == [("fail", APP, "a replica died")]
    assert planned(a_placement("ready"), {}) == [("lose", APP, "its application was lost")]


def test_a_change_leaves_the_old_one_serving_until_the_new_one_is_ready() -> None:
    old = "program-p-v1-old"
    changed = a_placement("starting", serving=old)
    both = {old: RUNNING, APP: SeenApplication(status="DEPLOYING")}
    assert planned(changed, both) == []
    assert place_of(changed) == DedicatedPlace(application=old)
    assert planned(changed, {APP: both[APP]}) == [("unserve", old, None)]
    done = a_placement("ready", serving=APP)
    assert planned(done, {old: RUNNING, APP: RUNNING}) == [("delete", old, None)]


def test_nothing_is_deleted_before_every_gateway_knows() -> None:
    assert planned(None, {APP: RUNNING}, applied=False) == []
    assert planned(None, {APP: RUNNING}) == [("delete", APP, None)]
    assert planned(a_placement("draining"), {APP: RUNNING}, applied=False) == []
    assert planned(a_placement("draining"), {APP: RUNNING}) == [("delete", APP, None)]
    assert planned(a_placement("draining"), {APP: SeenApplication(status="DELETING")}) == []
    assert planned(a_placement("draining"), {}) == [("forget", APP, None)]


def test_one_that_is_still_ending_is_made_anew_when_it_has_ended() -> None:
    ending = {APP: SeenApplication(status="DELETING")}
    assert planned(a_placement(), ending) == []
    assert planned(a_placement("failed", failures=1), ending, after_s=3600) == []


def test_other_applications_are_left_alone() -> None:
    assert planned(None, {"gateway": RUNNING, "hosted-smol-1": RUNNING}) == []


@given(
    st.sampled_from(sorted(PLACEMENT_MACHINE.states)),
    st.dictionaries(
        st.sampled_from([APP, "program-p-v1-old", "program-q-v2-x"]),
        st.builds(SeenApplication, status=st.sampled_from(STATUSES), running=st.integers(0, 2)),
    ),
    st.sampled_from([None, APP, "program-p-v1-old"]),
    st.floats(0, 10_000),
    st.booleans(),
)
def test_what_is_planned_the_machine_allows_and_nothing_in_use_is_deleted(
    status: str,
    seen: dict[str, SeenApplication],
    serving: str | None,
    after_s: float,
    applied: bool,
) -> None:
    serving = None if status == "draining" else serving
    placement = a_placement(status, serving=serving, failures=1)
    now = NOON + timedelta(seconds=after_s)
    actions = plan([placement], seen, NODES, now, start_timeout_s=120, applied=applied)
    state = placement.status.value
    for action in actions:
        if action.act in {Act.START, Act.SUCCEED, Act.FAIL, Act.LOSE, Act.RETRY}:
            state = PLACEMENT_MACHINE.next(state, action.act)
        if action.act is Act.DELETE:
            assert applied
            assert status == "draining" or action.application not in {APP, serving}
        if action.act is Act.CREATE:
            assert action == Action(Act.CREATE, APP, placement)
            assert status != "draining"


# --- where a version is served -------------------------------------------------------------


def test_a_placement_that_takes_over_is_shared_until_it_is_ready() -> None:
    assert place_of(a_placement("starting", takes_over=True)) is None
    assert place_of(a_placement("failed", takes_over=True, reason="why")) is None
    assert place_of(a_placement("ready", serving=APP)) == DedicatedPlace(application=APP)
    assert place_of(a_placement("draining")) is None


def test_any_other_is_nowhere_until_it_is_ready_and_says_why() -> None:
    assert place_of(a_placement("starting")) == DedicatedPlace(
        application=None,
        reason="its dedicated placement is 'starting': its replicas have not started yet",
    )
    nowhere = place_of(a_placement("failed", reason="no node has 9 CPU"))
    assert nowhere is not None
    assert nowhere.reason == "its dedicated placement is 'failed': no node has 9 CPU"


def test_traffic_is_refused_for_what_is_not_ready() -> None:
    require_traffic(None)
    require_traffic(a_placement("ready", serving=APP))
    require_traffic(a_placement("draining"))
    with pytest.raises(Conflict) as refused:
        require_traffic(a_placement("failed", takes_over=True, reason="no node has 9 CPU"))
    assert refused.value.message == (
        "version 1 of 'p' cannot take traffic: its dedicated placement is 'failed': "
        "no node has 9 CPU"
    )


# --- what a spec may ask -------------------------------------------------------------------


def test_another_spec_is_another_application() -> None:
    def named(spec: NewPlacement) -> str:
        return application_name("p", 3, DEFAULT_PROJECT, VersionId(UUID(int=3)), spec)

    assert named(NewPlacement()) == named(NewPlacement())
    assert named(NewPlacement()) != named(NewPlacement(max_replicas=2))
    assert named(NewPlacement()).startswith("program-p-v3-")


def test_one_node_must_have_all_of_it() -> None:
    assert lacking(Resources(num_cpus=2, memory_bytes=1), NODES) is None
    assert lacking(Resources(num_cpus=3, memory_bytes=1), NODES) == (
        "no node has all of its resources at once"
    )
    assert lacking(Resources(custom={"gpu-b": 1}), NODES) == (
        "no node has 1 gpu-b (the most that one has: 0)"
    )
    assert lacking(Resources(num_cpus=1000), []) is None  # nothing is known of the nodes


@pytest.mark.parametrize(
    ("wanted", "field", "rule"),
    [
        ({"env_vars": {"PROVIDER_API_KEY": "x"}}, "env_vars.PROVIDER_API_KEY", "no secrets"),
        ({"env_vars": {"db_password": "x"}}, "env_vars.db_password", "no secrets"),
        ({"env_vars": {"DSPEX_RAY_HOME": "x"}}, "env_vars.DSPEX_RAY_HOME", "not reserved"),
        ({"env_vars": {"LD_PRELOAD": "x"}}, "env_vars.LD_PRELOAD", "not reserved"),
        ({"env_vars": {"PYTHONPATH": "x"}}, "env_vars.PYTHONPATH", "not reserved"),
        ({"pip": ["numpy"]}, "pip", "pin"),
        ({"pip": ["numpy==2 --index-url=http://x"]}, "pip", "pin"),
        ({"pip": ["numpy @ http://x/numpy.whl"]}, "pip", "pin"),
        ({"pip": ["pandas==2.0"]}, "pip", "allowed package"),
        ({"working_dir": "https://elsewhere.example/x.zip"}, "working_dir", "allowed address"),
        ({"py_modules": ["/etc"]}, "py_modules", "allowed address"),
    ],
)
def test_what_is_not_allowed_is_refused(wanted: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_runtime_env(
            RuntimeEnv(**wanted), packages=["numpy"], addresses=["https://ours.example/"]
        )
    assert (refused.value.field, refused.value.rule) == (f"runtime_env.{field}", rule)


def test_what_is_allowed_is_passed_on() -> None:
    wanted = RuntimeEnv(
        env_vars={"MODE": "fast", "MAX_TOKENS": "5"},
        pip=("My_Tools[extra]==1.0.0",),
        working_dir="https://ours.example/code.zip",
    )
    check_runtime_env(wanted, packages=["my-tools"], addresses=["https://ours.example/"])
    assert wanted.as_ray() == {
        "env_vars": {"MODE": "fast", "MAX_TOKENS": "5"},
        "pip": ["My_Tools[extra]==1.0.0"],
        "working_dir": "https://ours.example/code.zip",
    }
    assert RuntimeEnv().as_ray() == {}


def test_by_default_no_code_is_allowed() -> None:
    with pytest.raises(Invalid):
        check_runtime_env(RuntimeEnv(py_modules=("https://x.example/",)), packages=(), addresses=())


def test_at_most_is_no_less_than_at_least() -> None:
    with pytest.raises(ValidationError, match="min_replicas is 2: over max_replicas, 1"):
        NewPlacement(min_replicas=2)
    with pytest.raises(ValidationError):
        RuntimeEnv.model_validate({"conda": "x"})
