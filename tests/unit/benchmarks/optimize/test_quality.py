"""When a search counts as having reached a quality, and against whom."""

from __future__ import annotations

import pytest

from benchmarks.optimize.engine import simulated_lm
from benchmarks.optimize.figures import OURS
from benchmarks.optimize.quality import (
    MIPRO,
    OPTIMIZERS,
    RANDOM,
    Course,
    Mark,
    advantage,
    blind_target,
    calls_to_mean,
    handed_back,
    mean_quality,
    problem,
    reached,
    search,
    true_quality,
)
from benchmarks.optimize.simulated import Hidden, SimulatedModel
from dspex_ray.optimization.metering import FlatMeter
from dspex_ray.optimization.model import Candidate, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import local_workbench


def _marks(*found: tuple[int, float]) -> tuple[Mark, ...]:
    return tuple(Mark(calls, calls / 10, quality) for calls, quality in found)


def _course(calls: int, *found: tuple[int, float]) -> Course:
    return Course(_marks(*found), calls, calls / 10)


@pytest.mark.parametrize(
    ("marks", "calls"),
    [
        ([], None),
        ([(10, 0.4)], None),
        ([(10, 0.4), (20, 0.6)], 20),
        ([(10, 0.6), (20, 0.7)], 10),
        ([(10, 0.6), (20, 0.4), (30, 0.5)], 30),  # 10 was luck
        ([(10, 0.6), (20, 0.4)], None),
        ([(10, 0.6), (10, 0.4), (20, 0.6)], 20),  # the last of those measured side by side
        ([(10, 0.4), (10, 0.6)], 10),
    ],
)
def test_a_target_is_reached_once_it_is_kept(
    marks: list[tuple[int, float]], calls: int | None
) -> None:
    at = reached(_marks(*marks), 0.5)
    assert (at and at.calls) == calls


def test_who_does_not_get_there_counts_with_all_calls() -> None:
    ours = _course(300, (100, 0.6))
    assert advantage(ours, _course(900, (250, 0.6)), 0.5) == 2.5
    assert advantage(ours, _course(900, (250, 0.4)), 0.5) == 9.0
    assert advantage(_course(300, (100, 0.4)), ours, 0.5) == 0.0


def test_a_target_is_what_few_blind_programs_have() -> None:
    for seed in range(5):
        quarter, tenth = (blind_target(Hidden(seed), share) for share in (0.75, 0.9))
        assert 0.30 < quarter < tenth < 0.98


@pytest.mark.parametrize(
    ("who", "less"), [(OURS, {}), (MIPRO, {}), (RANDOM, {"num_candidate_programs": 2})]
)
async def test_the_best_so_far_is_what_the_optimizer_hands_back(
    who: str, less: dict[str, int]
) -> None:
    name, parameters = OPTIMIZERS[who]
    hidden, known = Hidden(0), dict[str, Candidate]()
    task, lm = problem(0), simulated_lm(SimulatedModel(hidden))

    def tried(trial: Trial, candidate: Candidate) -> None:
        known[candidate.hash] = candidate

    bench = local_workbench(task, lm, prompt_lm=lm, meter=FlatMeter(), on_trial=tried)
    given = {**parameters, **less}
    outcome = await builtin_registry().optimize(name, task, bench, given)
    best = handed_back(list(known.values()), {example.hash for example in task.selection})
    assert best.hash == outcome.best.hash


async def test_a_search_ends_where_its_last_mark_is() -> None:
    name, parameters = OPTIMIZERS[OURS]
    first = await search(name, parameters, Hidden(1), 0.0)
    again = await search(name, parameters, Hidden(1), 0.0)
    assert first.marks[-1].calls == first.calls
    assert [(m.calls, m.quality) for m in first.marks] == [
        (m.calls, m.quality) for m in again.marks
    ]
    assert first.marks[-1].quality > 0.30
    assert true_quality(Hidden(1), problem(1).artifact) == 0.30


def test_the_mean_over_seeds_begins_with_the_start_and_stays_at_the_end() -> None:
    courses = [_course(30, (10, 0.6), (30, 0.8)), _course(20, (20, 0.4))]
    found = [mean_quality(courses, calls) for calls in (5, 10, 20, 30, 99)]
    assert found == pytest.approx([0.30, 0.45, 0.5, 0.6, 0.6])


@pytest.mark.parametrize(("level", "calls"), [(0.2, 10), (0.45, 10), (0.6, 40), (0.7, None)])
def test_a_mean_is_reached_once_it_is_kept(level: float, calls: int | None) -> None:
    courses = [
        _course(40, (10, 0.6), (20, 0.8), (40, 0.8)),
        _course(40, (20, 0.5), (30, 0.2), (40, 0.4)),
    ]
    assert calls_to_mean(courses, level) == calls
