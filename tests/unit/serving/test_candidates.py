"""Pins by name against a snapshot: who is there answers, who is gone is as if not pinned."""

from __future__ import annotations

import pytest

from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import DEFAULT_PROJECT, ProjectId, uuid7
from dspex_ray.models.model import Model, ModelStats
from dspex_ray.routing.model import RoutingStrategy
from dspex_ray.serving.candidates import Assigned, assigned, assigned_for
from dspex_ray.serving.snapshot import Configuration, Snapshot
from tests.unit.routing.parts import assignment, model

A, B = model("a"), model("b")
ROWS = (assignment(A),)


def holding(*models: Model) -> Configuration:
    return Configuration(
        Snapshot(
            version=1,
            models={one.id: one for one in models},
            model_ids={(one.project_id, one.name): one.id for one in models},
        ),
        figures={B.id: ModelStats(success_rate=0.5)},
    )


def names(pairs: list[Assigned]) -> list[tuple[str | None, str, RoutingStrategy]]:
    return [(row.predictor, found.name, row.routing_strategy) for row, found in pairs]


def test_pins_come_with_their_figures_and_before_the_assignments() -> None:
    pairs = assigned_for(holding(A, B), ROWS, {"": "b"}, DEFAULT_PROJECT)
    assert names(pairs) == [
        (None, "b", RoutingStrategy.PRIMARY),
        (None, "a", RoutingStrategy.FALLBACK),
    ]
    assert pairs[0][1].stats.success_rate == 0.5


def test_without_pins_they_are_the_assignments() -> None:
    configuration = holding(A, B)
    assert assigned_for(configuration, ROWS, {}, DEFAULT_PROJECT) == assigned(configuration, ROWS)


def test_a_model_that_is_gone_is_as_if_it_were_not_pinned() -> None:
    configuration = holding(A)
    gone = assigned_for(configuration, ROWS, {"": "b", "draft": "b"}, DEFAULT_PROJECT)
    assert gone == assigned(configuration, ROWS)
    some = assigned_for(configuration, (), {"": "a", "draft": "b"}, DEFAULT_PROJECT)
    assert names(some) == [(None, "a", RoutingStrategy.PRIMARY)]


def test_names_are_those_of_the_project() -> None:
    other = ProjectId(uuid7(1, 9))
    with pytest.raises(Unavailable):
        assigned_for(holding(A, B), (), {"": "b"}, other)


def test_nothing_left_is_unavailable() -> None:
    wanted = r"^No available models: b is not registered any more$"
    with pytest.raises(Unavailable, match=wanted):
        assigned_for(holding(A), (), {"": "b", "main": "b"}, DEFAULT_PROJECT)
