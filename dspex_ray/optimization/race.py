"""A race of candidates as the statistics plan it, run by an evaluator and kept on record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.evaluator import Evaluator
from dspex_ray.optimization.model import Candidate
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.stats.racing import Plan, Race, rungs_of

_ETA = 3.0  #: a third goes on: 16 candidates on 40 examples cost 280 runs instead of 640

T = TypeVar("T")


class Pace(NamedTuple):
    """`first_share` of the examples is what all candidates see. `keep_start`: the start sees all of
    them, though it may have fallen behind."""

    first_share: float = 0.25
    keep_start: bool = True


def heats_of(candidates: Sequence[T], size: int) -> list[Sequence[T]]:
    """In their order, as few heats as hold `size` each at most, and as equal as can be."""
    count = max(1, math.ceil(len(candidates) / size))
    cuts = [round(len(candidates) * number / count) for number in range(count + 1)]
    return [candidates[a:b] for a, b in pairwise(cuts)]


def most_runs(candidates: int, examples: int, pace: Pace, size: int) -> int:
    """What racing in heats takes at most: the best so far is not measured again."""
    if not examples:
        return 0
    total, heats = 0, heats_of(range(candidates), size)
    for number, heat in enumerate(heats):
        racers = len(heat) + (number > 0)
        kept = pace.keep_start or number > 0
        total += _plan(
            list(map(str, range(racers))), examples, pace._replace(keep_start=kept)
        ).most_scores
    return total - examples * (len(heats) - 1)


def plan_race(
    candidates: Sequence[Candidate], order: Sequence[Example], pace: Pace = Pace()
) -> Plan:
    """The first candidate is the start: the winner among equals."""
    return _plan([candidate.hash for candidate in candidates], len(order), pace)


def affordable(
    candidates: Sequence[Candidate],
    order: Sequence[Example],
    runs: int | None,
    pace: Pace = Pace(),
) -> list[Candidate]:
    """As many, the first ones, as can race in so many program runs; two at least. None: all."""
    fitting = list(candidates)
    while (
        runs is not None and len(fitting) > 2 and plan_race(fitting, order, pace).most_scores > runs
    ):
        fitting.pop()
    return fitting


async def race_in_heats(
    evaluator: Evaluator,
    record: Record,
    candidates: Sequence[Candidate],
    order: Sequence[Example],
    pace: Pace,
    size: int,
    runs_left: Callable[[], int | None],
) -> Candidate:
    """The winner of the last heat, each but the first being against the winner of the one before:
    something good is known early, and more candidates still get their chance.

    A heat is as large as the runs that are left allow; the first has two candidates whatever they
    say. Raises as `race`.
    """
    first, *later = heats_of(candidates, size)
    best = await race(evaluator, record, affordable(first, order, runs_left(), pace), order, pace)
    pace = pace._replace(keep_start=True)  # it has all its scores already
    for heat in later:
        left = runs_left()
        if left is not None:
            left += len(order)
        racers = affordable([best, *heat], order, left, pace)
        if left is not None and plan_race(racers, order, pace).most_scores > left:
            break
        best = await race(evaluator, record, racers, order, pace)
    return best


async def race(
    evaluator: Evaluator,
    record: Record,
    candidates: Sequence[Candidate],
    order: Sequence[Example],
    pace: Pace = Pace(),
) -> Candidate:
    """The winner, measured on all of `order`. Raises as Evaluator does.

    What the record knows of a candidate is not run again. Each departure becomes a fact of the
    candidate that left.
    """
    running = Race(plan_race(candidates, order, pace))
    while wanted := running.next():
        asked = [
            (record.get(key), [order[i] for i in places if order[i].hash not in known])
            for key, places in wanted
            for known in [record.get(key).scores]
        ]
        await measure_all(evaluator, record, [(who, on) for who, on in asked if on])
        for key, places in wanted:
            scores = record.get(key).scores
            running.told(key, {place: scores[order[place].hash] for place in places})
    for left in running.dropped:
        record.note(left.candidate, {"dropped": left.reason, "dropped_after": left.n})
    winner = running.winner
    assert winner is not None
    return record.get(winner)


def _plan(names: Sequence[str], examples: int, pace: Pace) -> Plan:
    return Plan(
        candidates=tuple(names),
        examples=tuple(range(examples)),
        rungs=rungs_of(examples, math.ceil(examples * pace.first_share)),
        incumbent=names[0] if pace.keep_start else None,
        eta=_ETA,
    )
