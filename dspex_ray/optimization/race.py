"""A race of candidates as the statistics plan it, run by an evaluator and kept on record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.evaluator import Evaluator
from dspex_ray.optimization.model import Candidate
from dspex_ray.optimization.record import Record, measure_all
from dspex_ray.stats.racing import Plan, Race, rungs_of

_ETA = 3.0  #: a third goes on: 16 candidates on 40 examples cost 280 runs instead of 640


class Pace(NamedTuple):
    """`first_share` of the examples is what all candidates see. `keep_start`: the start sees all of
    them, though it may have fallen behind."""

    first_share: float = 0.25
    keep_start: bool = True


def plan_race(
    candidates: Sequence[Candidate], order: Sequence[Example], pace: Pace = Pace()
) -> Plan:
    """The first candidate is the start: the winner among equals."""
    return Plan(
        candidates=tuple(candidate.hash for candidate in candidates),
        examples=tuple(range(len(order))),
        rungs=rungs_of(len(order), math.ceil(len(order) * pace.first_share)),
        incumbent=candidates[0].hash if pace.keep_start else None,
        eta=_ETA,
    )


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
