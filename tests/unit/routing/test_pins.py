"""What a version pins goes first; what is assigned comes after it."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import AssignmentId
from dspex_ray.models.model import HealthStatus, Model, ModelStatus
from dspex_ray.routing.model import Conditions, Loss, ProgramModel, RoutingStrategy
from dspex_ray.routing.rules import (
    Candidate,
    Selection,
    applicable,
    direct,
    select_model,
    under_pins,
)
from dspex_ray.testing.fake_clock import NOON
from tests.unit.routing.parts import STATS, assignment, model

HEALTHY = {"stats": STATS[HealthStatus.HEALTHY]}


def pin(name: str, predictor: str | None = None) -> ProgramModel:
    return direct(model(name), NOON, predictor)


def select(
    rows: list[ProgramModel], predictor: str | None, cost: Decimal | None = None, **models: Any
) -> Selection:
    """The decision of one call; `models` are the fields of some, by name."""

    def of(row: ProgramModel) -> Model:
        return model(row.model_name, **{**HEALTHY, **models.get(row.model_name, {})})

    pairs = applicable([(row, of(row)) for row in rows], predictor)
    found = [Candidate(row, found, lambda: cost) for row, found in pairs]
    return select_model(found, {"q": "x"}, {}, NOON, random.Random(0))


def order(selection: Selection) -> list[str]:
    return [one.model.name for one in (selection.choice, *selection.chain)]


def test_the_pinned_model_is_first_and_the_assignments_follow_primaries_first() -> None:
    rows = [
        assignment(model("a"), "fallback", priority=9),
        assignment(model("b"), "cost_optimized", priority=3),
        assignment(model("c"), priority=1),
        assignment(model("d"), priority=2),
    ]
    selection = select(under_pins([pin("mine")], rows), "main")
    assert order(selection) == ["mine", "d", "c", "a", "b"]
    assert selection.choice.assignment.routing_strategy is RoutingStrategy.PRIMARY
    assert selection.choice.assignment_id is None  # no row counts it
    assert [c.assignment_id for c in selection.chain] == [rows[n].id for n in (3, 2, 0, 1)]


def test_a_program_without_assignments_needs_none() -> None:
    assert order(select(under_pins([pin("mine")], []), "main")) == ["mine"]


def test_a_pinned_model_that_is_assigned_too_is_tried_once() -> None:
    rows = [assignment(model("mine")), assignment(model("b"))]
    assert order(select(under_pins([pin("mine")], rows), None)) == ["mine", "b"]


def test_a_predictors_own_pin_and_assignments_go_before_those_of_all() -> None:
    rows = [assignment(model("a")), assignment(model("b"), predictor="draft")]
    pins = [pin("mine"), pin("other", "judge")]
    under = under_pins(pins, rows)
    assert order(select(under, "draft")) == ["mine", "b"]
    assert order(select(under, "judge")) == ["other", "a"]
    assert order(select(under, "main")) == order(select(under, None)) == ["mine", "a"]
    only = under_pins(pins[1:], rows)
    assert [order(select(only, p)) for p in ("judge", "draft", "main")] == [
        ["other", "a"],
        ["b"],
        ["a"],
    ]


def test_fallbacks_keep_their_conditions() -> None:
    rows = [
        assignment(model("large"), conditions=Conditions(input_size_max=1)),
        assignment(model("gold"), conditions=Conditions(context_required="gold")),
        assignment(model("dear"), conditions=Conditions(cost_limit=Decimal("0.1"))),
        assignment(model("free"), priority=-1),
    ]
    under = under_pins([pin("mine")], rows)
    assert order(select(under, None, Decimal(1))) == ["mine", "free"]
    assert order(select(under, None, Decimal("0.1"))) == ["mine", "dear", "free"]
    gone = select(under, None, Decimal(1), mine={"status": ModelStatus.DEPRECATED})
    assert order(gone) == ["free"]
    assert {loser.model: loser.reason for loser in gone.losers} == {
        "mine": Loss.NOT_AVAILABLE,
        "large": Loss.INPUT_TOO_LARGE,
        "gold": Loss.CONTEXT_MISSING,
        "dear": Loss.COST_OVER_LIMIT,
    }


def test_an_unhealthy_pinned_model_gives_way_as_any_primary_does() -> None:
    under = under_pins([pin("mine")], [assignment(model("b"))])
    sick = {"stats": STATS[HealthStatus.UNHEALTHY]}
    assert select(under, None, mine=sick).choice.model.name == "b"
    assert select(under_pins([pin("mine")], []), None, mine=sick).choice.model.name == "mine"


def test_nothing_left_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"^No available models: mine is deprecated$"):
        select(under_pins([pin("mine")], []), None, mine={"status": ModelStatus.DEPRECATED})


PREDICTORS = (None, "draft", "judge")


@st.composite
def assigned(draw: st.DrawFn) -> list[ProgramModel]:
    chosen = draw(
        st.lists(st.tuples(st.sampled_from(PREDICTORS), st.sampled_from("abc")), unique=True)
    )
    return [
        assignment(
            model(name),
            draw(st.sampled_from([strategy.value for strategy in RoutingStrategy])),
            id=AssignmentId(UUID(int=7_000 + number)),
            predictor=predictor,
            priority=draw(st.integers(-2, 2)),
        )
        for number, (predictor, name) in enumerate(chosen)
    ]


@given(
    assigned(),
    st.dictionaries(st.sampled_from(PREDICTORS), st.sampled_from("abx"), max_size=3),
    st.sampled_from([*PREDICTORS, "main"]),
)
def test_a_pin_changes_who_is_first_and_nobody_is_lost(
    rows: list[ProgramModel], pins: dict[str | None, str], predictor: str | None
) -> None:
    def called(some: list[ProgramModel]) -> list[ProgramModel]:
        return [row for row, _ in applicable([(row, model("m")) for row in some], predictor)]

    before = called(rows)
    after = called(under_pins([pin(name, p) for p, name in pins.items()], rows))
    first = pins.get(predictor, pins.get(None))
    if first is None:
        assert after == before
        return
    assert (after[0].model_name, after[0].program_id) == (first, None)
    assert {row.routing_strategy for row in after[1:]} <= {RoutingStrategy.FALLBACK}
    assert {row.id for row in after[1:]} == {row.id for row in before if row.model_name != first}
    assert [row.priority for row in after] == sorted({row.priority for row in after}, reverse=True)


def test_without_pins_nothing_changes() -> None:
    rows = [assignment(model("a"), "load_balanced", weight=3)]
    assert under_pins([], rows) == rows
