"""What is kept of a budget for the test examples, and what measuring on them says."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Objective
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import (
    BudgetExhausted,
    Ledger,
    RunCancelled,
    RunHalted,
    RunRefused,
)
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.model import Budget, Candidate, Outcome, Score
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.remeasure import (
    calls_kept,
    remeasured,
    search_budget,
    versions_planned,
)
from dspex_ray.optimization.run_rules import chosen, with_versions
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact
from tests.unit.optimization.parts import examples, problem, program

TEST = examples(4, start=200)
START, BETTER, WORSE = (program(text) for text in ("Name the topic.", "Think.", "Guess."))
COUNTS = st.integers(1, 500)

# --- what is kept --------------------------------------------------------------------------------


def test_a_run_ends_in_as_many_programs_as_it_registers_or_its_front_has() -> None:
    assert versions_planned(3, {}) == 3
    assert versions_planned(1, {"front_size": 8}) == 8
    assert versions_planned(0, {"front_size": 8}) == 0
    assert versions_planned(1, {"front_size": None}) == 1


@given(COUNTS, COUNTS, st.integers(1, 4), st.integers(1, 10_000))
def test_the_search_and_its_best_always_have_room(
    versions: int, test: int, calls: int, limit: int
) -> None:
    least, whole = 2 * test * calls, (1 + versions) * test * calls
    if limit <= least:
        with pytest.raises(Invalid) as refused:
            calls_kept(versions, test, calls, Budget(lm_calls=limit))
        assert (refused.value.field, refused.value.rule) == ("budget.lm_calls", f"above {least}")
        return
    kept = calls_kept(versions, test, calls, Budget(lm_calls=limit))
    assert least <= kept <= whole
    assert kept == whole or kept in (least, limit // 2)
    left = search_budget(Budget(lm_calls=limit), kept, limit).lm_calls
    assert left is not None
    assert left >= 1
    assert left + kept == limit


def test_without_test_examples_nothing_is_kept() -> None:
    budget = Budget(lm_calls=1, usd=Decimal("0.1"), tokens=7, seconds=3.0)
    assert calls_kept(5, 0, 2, budget) == 0
    assert search_budget(budget, 0, 100) == budget
    assert calls_kept(0, 6, 2, Budget()) == 12  # the start is measured all the same


@given(st.integers(1, 10_000), st.integers(1, 20_000), st.integers(1, 10**6))
def test_of_other_ceilings_the_search_gets_half_at_least(
    kept: int, estimated: int, tokens: int
) -> None:
    whole = Budget(tokens=tokens, usd=Decimal(tokens), seconds=float(tokens))
    left = search_budget(whole, kept, estimated)
    assert left.lm_calls is None
    for name in ("tokens", "usd", "seconds"):
        share = float(getattr(left, name)) / tokens
        assert 0.5 - 1e-6 <= share <= 1.0
        assert share >= 1 - kept / estimated - 1e-6
    assert search_budget(whole, kept, None) == whole


# --- what is measured ----------------------------------------------------------------------------


class Scripted:
    """An evaluator that knows each program's score on each example, or what to raise instead."""

    def __init__(self, known: dict[str, Sequence[float] | RunHalted]) -> None:
        self._known = known
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    async def evaluate(self, artifact: Artifact, on: Sequence[Example]) -> list[Score]:
        key = artifact_hash(artifact)
        self.asked.append((key, tuple(example.hash for example in on)))
        found = self._known[key]
        if isinstance(found, RunHalted):
            raise found
        return [Score(value, {}, None if value else "output_invalid") for value in found]


TASK = problem(program("Name the topic."), dev=4)


def searched(*tried: tuple[Artifact, float], front: Front | None = None) -> Outcome:
    """Candidates with the same score on every dev example; the first is the start."""
    record = Record(TASK, Ledger(Budget()))
    for artifact, score in tried:
        one = record.add(artifact, "tests")
        record.scored(one.hash, {example.hash: score for example in TASK.dev})
    return record.outcome().model_copy(update={"front": front})


def bench(*known: tuple[Artifact, Sequence[float] | RunHalted]) -> tuple[Workbench, Scripted]:
    evaluator = Scripted({artifact_hash(one): found for one, found in known})
    return Workbench(None, None, Ledger(Budget()), evaluator), evaluator


async def test_the_best_is_compared_with_the_start_on_the_same_examples() -> None:
    outcome = searched((START, 0.25), (BETTER, 1.0))
    made, evaluator = bench((START, [0, 0, 1, 0]), (BETTER, [1, 1, 1, 0]))
    found = await remeasured(outcome, chosen(outcome, TASK, 1), TASK, TEST, made)
    assert {on for _, on in evaluator.asked} == {tuple(example.hash for example in TEST)}
    evidence = found.held_out
    assert evidence is not None
    assert evidence.start is not None
    assert (evidence.examples, evidence.start.score, evidence.missing) == (4, 0.25, None)
    assert evidence.start.figures["failures"] == 0.75
    (version,) = evidence.versions
    assert (version.candidate, version.version) == (artifact_hash(BETTER), None)
    assert (version.score, version.selection, version.flattered) == (0.75, 1.0, 0.25)
    assert version.lead is not None
    assert (version.lead.estimate, version.lead.n, version.lead.higher) == (0.5, 4, 2)
    assert (found.program_runs, found.failed_runs) == (8, 4)
    numbered = with_versions(found, {artifact_hash(BETTER): 7}).held_out
    assert numbered is not None
    assert [one.version for one in numbered.versions] == [7]


@pytest.mark.parametrize(
    ("halt", "why"),
    [
        (BudgetExhausted("usd"), "the budget of usd ended"),
        (RunCancelled("cancelled"), "the run was cancelled"),
        (RunRefused(Invalid("metric 'm' raised KeyError")), "metric 'm' raised KeyError"),
    ],
)
async def test_what_ends_it_loses_what_is_not_measured_and_nothing_else(
    halt: RunHalted, why: str
) -> None:
    outcome = searched((START, 0.25), (BETTER, 1.0), (WORSE, 0.5))
    made, _ = bench((START, [0, 0, 1, 0]), (BETTER, [1, 1, 1, 0]), (WORSE, halt))
    found = await remeasured(outcome, chosen(outcome, TASK, 2), TASK, TEST, made)
    assert found.best == outcome.best
    assert found.stopped_because is outcome.stopped_because
    assert found.held_out is not None
    assert found.held_out.missing == f"{why}: 2 of 3 programs were measured"
    assert [one.candidate for one in found.held_out.versions] == [artifact_hash(BETTER)]


async def test_one_example_compares_nothing() -> None:
    outcome = searched((START, 0.25), (BETTER, 1.0))
    made, _ = bench((START, [0]), (BETTER, [1]))
    found = await remeasured(outcome, chosen(outcome, TASK, 1), TASK, TEST[:1], made)
    assert found.held_out is not None
    assert [one.lead for one in found.held_out.versions] == [None]


async def test_a_search_that_found_nothing_has_its_start_measured() -> None:
    outcome = searched((START, 0.25))
    made, evaluator = bench((START, [0, 0, 1, 0]))
    found = await remeasured(outcome, chosen(outcome, TASK, 1), TASK, TEST, made)
    assert found.held_out is not None
    assert found.held_out.start is not None
    assert found.held_out.versions == ()
    assert len(evaluator.asked) == 1


# --- fronts --------------------------------------------------------------------------------------


def point(artifact: Artifact, accuracy: float, *, picked: bool = False) -> FrontPoint:
    figures = {"accuracy": accuracy, "latency": 10.0}
    return FrontPoint(candidate=artifact_hash(artifact), trial=1, figures=figures, picked=picked)


def front(*points: FrontPoint) -> Front:
    objectives = (Objective(name="accuracy"), Objective(name="latency", direction="minimize"))
    return Front(objectives=objectives, points=points, examples=4)


async def test_a_front_carries_the_figures_that_were_measured_again() -> None:
    points = front(point(BETTER, 1.0), point(WORSE, 0.5, picked=True), point(START, 0.25))
    outcome = searched((START, 0.25), (BETTER, 1.0), (WORSE, 0.5), front=points)
    wanted = chosen(outcome, TASK, 1)
    assert [(one.hash, score) for one, score in wanted] == [
        (artifact_hash(WORSE), 0.5),
        (artifact_hash(BETTER), 1.0),
        (artifact_hash(START), 0.25),
    ]
    made, evaluator = bench((START, [0, 0, 1, 0]), (BETTER, [1, 1, 1, 0]), (WORSE, [1, 1, 1, 1]))
    found = await remeasured(outcome, wanted, TASK, TEST, made)
    assert len(evaluator.asked) == 3
    assert found.front is not None
    assert found.front.held_out_examples == 4
    # latency was not measured there
    assert [one.held_out for one in found.front.points] == [
        {"accuracy": 0.75},
        {"accuracy": 1.0},
        {"accuracy": 0.25},
    ]
    assert [one.flattered for one in found.front.points] == [
        {"accuracy": 0.25},
        {"accuracy": -0.5},
        {"accuracy": 0.0},
    ]
    assert found.held_out is not None
    assert [one.lead is None for one in found.held_out.versions] == [False, False, True]
    numbers = {artifact_hash(START): 1, artifact_hash(WORSE): 2}
    numbered = with_versions(found, numbers).front
    assert numbered is not None
    assert [one.version for one in numbered.points] == [None, 2, 1]


def test_of_a_front_every_point_is_chosen_unless_none_is_wanted_or_it_is_the_start() -> None:
    points = front(point(BETTER, 1.0), point(BETTER, 1.0), point(START, 0.25))
    outcome = searched((START, 0.25), (BETTER, 1.0), front=points)

    def hashes(found: list[tuple[Candidate, float | None]]) -> list[str]:
        return [one.hash for one, _ in found]

    assert hashes(chosen(outcome, TASK, 1)) == [artifact_hash(BETTER), artifact_hash(START)]
    assert chosen(outcome, TASK, 0) == []
    alone = outcome.model_copy(update={"front": front(point(START, 0.25))})
    assert chosen(alone, TASK, 1) == []
