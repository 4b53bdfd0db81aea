"""select_model: RT-01 to RT-17."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Conflict, Unavailable
from dspex_ray.models.model import HealthStatus, ModelStats, ModelStatus
from dspex_ray.routing.model import Conditions, Loss, Lost, RoutingStrategy
from dspex_ray.routing.rules import Candidate, Selection, applicable, select_model
from dspex_ray.testing.fake_clock import NOON
from tests.unit.routing.parts import STATS, assignment, candidate, model


def select(
    *candidates: Candidate,
    inputs: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    seed: int = 0,
) -> Selection:
    return select_model(candidates, inputs or {}, context or {}, NOON, random.Random(seed))


def chosen(*candidates: Candidate, **given: Any) -> str:
    return select(*candidates, **given).choice.model.name


def lost(selection: Selection) -> dict[str, Loss]:
    return {loser.model: loser.reason for loser in selection.losers}


class TestErrors:
    def test_no_assignments(self) -> None:
        with pytest.raises(Conflict, match=r"^No models configured for program$"):
            select()

    def test_no_available_model(self) -> None:
        with pytest.raises(Unavailable, match=r"^No available models: a is testing, b is error$"):
            select(
                candidate("a", of={"status": ModelStatus.TESTING}),
                candidate("b", of={"status": ModelStatus.ERROR}),
            )


class TestConditions:
    @pytest.mark.parametrize(("limit", "expected"), [(9, "a"), (8, "b")])
    def test_input_size_counts_characters_of_compact_json(self, limit: int, expected: str) -> None:
        # {"q":"é"} is 9 characters, 10 bytes.
        first = candidate("a", conditions=Conditions(input_size_max=limit))
        assert chosen(first, candidate("b", priority=-1), inputs={"q": "é"}) == expected

    def test_context_required_is_about_the_key(self) -> None:
        first = candidate("a", conditions=Conditions(context_required="gold"))
        other = candidate("b", priority=-1)
        assert chosen(first, other, context={"gold": None}) == "a"
        assert lost(select(first, other)) == {"a": Loss.CONTEXT_MISSING}

    @pytest.mark.parametrize(
        ("cost", "loss"),
        [
            (Decimal("0.0100"), None),
            (Decimal("0.010001"), Loss.COST_OVER_LIMIT),
            (None, Loss.COST_UNKNOWN),
        ],
    )
    def test_cost_limit(self, cost: Decimal | None, loss: Loss | None) -> None:
        first = candidate("a", cost=cost, conditions=Conditions(cost_limit=Decimal("0.01")))
        selection = select(first, candidate("b", priority=-1))
        assert lost(selection).get("a") == loss

    def test_none_eligible_takes_the_first_available_and_ignores_conditions(self) -> None:
        never = Conditions(context_required="gold")
        selection = select(
            candidate("a", priority=3, of={"status": ModelStatus.DEPRECATED}),
            candidate("b", "fallback", priority=2, conditions=never),
            candidate("c", priority=1, conditions=never),
        )
        assert selection.choice.model.name == "b"
        assert lost(selection) == {"a": Loss.NOT_AVAILABLE, "c": Loss.CONTEXT_MISSING}
        assert selection.chain == ()

    def test_cost_is_estimated_at_most_once_and_only_when_asked(self) -> None:
        asked: list[str] = []

        def priced(name: str, strategy: str, **fields: Any) -> Candidate:
            one = candidate(name, strategy, **fields)

            def estimate() -> Decimal:
                asked.append(name)
                return Decimal(1)

            return Candidate(one.assignment, one.model, estimate)

        limit = Conditions(cost_limit=Decimal(2))
        select(priced("a", "cost_optimized", conditions=limit), priced("b", "cost_optimized"))
        assert sorted(asked) == ["a", "b"]
        asked.clear()
        select(priced("a", "primary"), priced("b", "fallback"))
        assert asked == []


class TestHealthGate:
    @pytest.mark.parametrize(
        ("health", "expected", "checked"),
        [
            (HealthStatus.HEALTHY, "p", False),
            (HealthStatus.DEGRADED, "p", True),
            (HealthStatus.UNKNOWN, "p", True),
            (HealthStatus.STALE, "f", False),
            (HealthStatus.UNHEALTHY, "f", False),
        ],
    )
    def test_primary(self, health: HealthStatus, expected: str, checked: bool) -> None:
        primary = candidate("p", health=health)
        selection = select(primary, candidate("f", "fallback", priority=9))
        assert selection.choice.model.name == expected
        assert selection.check_requested == ((primary.model.id,) if checked else ())

    def test_unhealthy_primary_serves_when_no_fallback_is_better(self) -> None:
        selection = select(
            candidate("p", health=HealthStatus.UNHEALTHY),
            candidate("f", "fallback", health=HealthStatus.UNHEALTHY),
            candidate("c", "cost_optimized"),
        )
        assert selection.choice.model.name == "p"
        assert [c.model.name for c in selection.chain] == ["f"]

    def test_losers_of_the_gate(self) -> None:
        selection = select(
            candidate("p", priority=9, health=HealthStatus.UNHEALTHY),
            candidate("q", priority=8),
            candidate("f", "fallback", priority=7, health=HealthStatus.UNHEALTHY),
            candidate("g", "fallback", priority=6),
            candidate("h", "fallback", priority=5),
            candidate("c", "cost_optimized"),
        )
        assert selection.losers == (
            Lost(model="p", strategy=RoutingStrategy.PRIMARY, reason=Loss.UNHEALTHY),
            Lost(model="q", strategy=RoutingStrategy.PRIMARY, reason=Loss.LOWER_PRIORITY),
            Lost(model="f", strategy=RoutingStrategy.FALLBACK, reason=Loss.UNHEALTHY),
            Lost(model="h", strategy=RoutingStrategy.FALLBACK, reason=Loss.LOWER_PRIORITY),
            Lost(model="c", strategy=RoutingStrategy.COST_OPTIMIZED, reason=Loss.OTHER_STRATEGY),
        )
        assert [c.model.name for c in selection.chain] == ["h", "f"]


class TestGroups:
    def test_order_of_the_strategies(self) -> None:
        groups = [
            candidate("f", "fallback", priority=9),
            candidate("b", "load_balanced", priority=8),
            candidate("l", "latency_optimized", priority=7),
            candidate("c", "cost_optimized", priority=6),
            candidate("p", "primary", priority=5),
        ]
        order = [chosen(*groups[: len(groups) - gone]) for gone in range(5)]
        assert order == ["p", "c", "l", "b", "f"]

    def test_cheapest_by_value(self) -> None:
        # By coefficient, or as text, the order would be another.
        prices = {"a": Decimal("0.10"), "b": Decimal("9E-3"), "c": Decimal("0.02"), "d": None}
        group = [candidate(n, "cost_optimized", cost=cost) for n, cost in prices.items()]
        selection = select(*group)
        assert selection.choice.model.name == "b"
        assert lost(selection) == dict.fromkeys("acd", Loss.COSTLIER)

    def test_unknown_cost_comes_last(self) -> None:
        dear = candidate("b", "cost_optimized", cost=Decimal(10**9))
        assert chosen(candidate("a", "cost_optimized", priority=9), dear) == "b"

    @pytest.mark.parametrize(("latency", "expected"), [(999.0, "b"), (1000.0, "a"), (1001.0, "a")])
    def test_unmeasured_latency_counts_as_a_second(self, latency: float, expected: str) -> None:
        measured = {"stats": ModelStats(average_latency_ms=latency)}
        unmeasured = candidate("a", "latency_optimized", of={"stats": ModelStats()})
        assert chosen(unmeasured, candidate("b", "latency_optimized", of=measured)) == expected

    def test_drawn_in_proportion_to_weight_and_success(self) -> None:
        rates = {"a": 1.0, "b": None, "c": 0.0, "d": 0.5}
        group = [
            candidate(
                name,
                "load_balanced",
                weight=200 if name == "d" else 100,
                of={"stats": ModelStats(success_rate=rate)},
            )
            for name, rate in rates.items()
        ]
        rng = random.Random(1)
        draws = Counter(
            select_model(group, {}, {}, NOON, rng).choice.model.name for _ in range(5000)
        )
        # Weights 100 : 50 : 0 : 100. Five standard deviations are 0.035.
        assert draws["c"] == 0
        assert draws["a"] / 5000 == pytest.approx(0.4, abs=0.035)
        assert draws["b"] / 5000 == pytest.approx(0.2, abs=0.035)
        assert draws["d"] / 5000 == pytest.approx(0.4, abs=0.035)

    def test_all_weights_zero_draws_evenly(self) -> None:
        group = [candidate(name, "load_balanced", weight=0) for name in "abc"]
        draws = Counter(chosen(*group, seed=seed) for seed in range(900))
        assert set(draws) == set("abc")
        assert min(draws.values()) > 220

    def test_rounding_at_the_end_draws_one_with_weight(self) -> None:
        class AtTheEnd(random.Random):
            def random(self) -> float:
                return 1.0

        group = [
            candidate("a", "load_balanced", priority=1),
            candidate("b", "load_balanced", weight=0),
        ]
        selection = select_model(group, {}, {}, NOON, AtTheEnd())
        assert selection.choice.model.name == "a"


def test_chain_is_healthier_first_then_priority() -> None:
    healths = {
        "u": HealthStatus.UNHEALTHY,
        "s": HealthStatus.STALE,
        "n": HealthStatus.UNKNOWN,
        "d": HealthStatus.DEGRADED,
        "h": HealthStatus.HEALTHY,
        "i": HealthStatus.HEALTHY,
    }
    fallbacks = [
        candidate(name, "fallback", priority=9 - index, health=health)
        for index, (name, health) in enumerate(healths.items())
    ]
    missing = candidate(
        "x", "fallback", priority=99, conditions=Conditions(context_required="gold")
    )
    gone = candidate("y", "fallback", priority=99, of={"status": ModelStatus.ERROR})
    selection = select(candidate("p"), missing, gone, *fallbacks)
    assert "".join(c.model.name for c in selection.chain) == "hindsu"


def test_the_assignments_of_a_predictor_replace_those_of_the_program() -> None:
    whole, own = model("a"), model("b")
    pairs = [(assignment(whole), whole), (assignment(own, predictor="draft"), own)]
    assert [m.name for _, m in applicable(pairs, "draft")] == ["b"]
    assert [m.name for _, m in applicable(pairs, "other")] == ["a"]
    assert [m.name for _, m in applicable(pairs, None)] == ["a"]


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    conditions = st.builds(
        Conditions,
        input_size_max=st.sampled_from([None, 2, 500]),
        context_required=st.sampled_from([None, "gold"]),
        cost_limit=st.sampled_from([None, Decimal("0.5")]),
    )
    return [
        candidate(
            f"m{index}",
            draw(st.sampled_from([s.value for s in RoutingStrategy])),
            cost=draw(st.sampled_from([None, Decimal("0.1"), Decimal("0.10"), Decimal(1)])),
            priority=draw(st.integers(-2, 2)),
            weight=draw(st.sampled_from([0, 1, 100])),
            conditions=draw(conditions),
            of={
                "status": draw(st.sampled_from(list(ModelStatus))),
                "stats": draw(st.sampled_from(list(STATS.values()))),
            },
        )
        for index in range(draw(st.integers(1, 8)))
    ]


@given(candidates(), st.booleans(), st.integers(0, 9))
def test_properties(given_: list[Candidate], gold: bool, seed: int) -> None:
    available = [c for c in given_ if c.model.status is ModelStatus.AVAILABLE]
    context = {"gold": 1} if gold else {}
    if not available:
        with pytest.raises(Unavailable):
            select(*given_, context=context)
        return
    selection = select(*given_, inputs={"q": "x"}, context=context, seed=seed)
    names = [selection.choice.model.name, *(loser.model for loser in selection.losers)]
    assert sorted(names) == sorted(c.model.name for c in given_)
    assert selection.choice in available
    assert selection.choice not in selection.chain
    assert all(c in available for c in selection.chain)
    assert all(c.assignment.routing_strategy is RoutingStrategy.FALLBACK for c in selection.chain)
    shuffled = random.Random(seed).sample(given_, len(given_))
    assert select(*shuffled, inputs={"q": "x"}, context=context, seed=seed) == selection
    unconditional = [c for c in available if c.assignment.conditions == Conditions()]
    primaries = [
        c for c in unconditional if c.assignment.routing_strategy is RoutingStrategy.PRIMARY
    ]
    if selection.choice.assignment.routing_strategy is RoutingStrategy.PRIMARY and primaries:
        best = max(c.assignment.priority for c in primaries)
        assert selection.choice.assignment.priority >= best
