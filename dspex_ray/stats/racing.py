"""Which candidates deserve the next examples: a race on growing prefixes of one example order.

All candidates see the same examples in the same order, so that they are compared in pairs. At each
rung, once every runner has its scores, two things drop a candidate:

- it is a clear loser: against the leader, its e-value (`sequential.log_paired_e`) reaches
  (candidates - 1) / alpha. Whoever leads, and however many rungs look, the best candidate in truth
  is dropped so with probability alpha at most (a union over its rivals, Ville's inequality over the
  looks), the examples being drawn at random from those that matter;
- it is halved away: only the best 1/`eta` by mean go on (successive halving, Jamieson & Talwalkar
  2016). This is a budget, not a test: it can lose a good candidate that began badly.

The last rung is every example, so the winner has been seen on all of them, in pairs with whatever
else was left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from dspex_ray.core.errors import Invalid
from dspex_ray.core.evidence import Comparison
from dspex_ray.stats.paired import compare_scores
from dspex_ray.stats.sequential import log_paired_e
from dspex_ray.stats.vectors import Vector, difference


class Wanted(NamedTuple):
    """Scores that the race waits for: one candidate on these examples, in race order."""

    candidate: str
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Dropped:
    """Why a candidate left, on the first `n` examples; `leader` was ahead of it there.

    `e_value` is the evidence against the candidate being as good as the leader, `threshold` what it
    takes to call it a clear loser.
    """

    candidate: str
    reason: Literal["clear_loser", "halved"]
    n: int
    mean: float
    leader: str
    leader_mean: float
    e_value: float
    threshold: float


class Standing(NamedTuple):
    """A runner's mean over the `n` examples of the last complete rung."""

    candidate: str
    mean: float
    n: int


@dataclass(frozen=True)
class Plan:
    """A race before it starts; raises Invalid where it could not be run.

    `examples` are the keys of the examples in race order (shuffled by whoever knows the data set),
    `rungs` how many of them each round sees: growing, the last all of them. `incumbent` is a
    candidate that is never dropped: what the others are measured against. Of the others at least
    `finalists` pass each halving; `eta` = 1 halves none away.
    """

    candidates: tuple[str, ...]
    examples: tuple[int, ...]
    rungs: tuple[int, ...]
    incumbent: str | None = None
    eta: float = 2.0
    finalists: int = 1
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for field, kept, rule in self._rules():
            if not kept:
                raise Invalid(
                    f"the race has {field} = {getattr(self, field)!r:.200}", field=field, rule=rule
                )

    def _rules(self) -> list[tuple[str, bool, str]]:
        growing = all(a < b for a, b in zip((0, *self.rungs), self.rungs, strict=False))
        full = bool(self.rungs) and self.rungs[-1] == len(self.examples)
        return [
            ("candidates", len(self.candidates) > 0, "at least one"),
            ("candidates", len(set(self.candidates)) == len(self.candidates), "no name twice"),
            ("examples", len(set(self.examples)) == len(self.examples), "no example twice"),
            ("rungs", growing and full, "growing from 1 or more to the number of examples"),
            ("incumbent", self.incumbent in (None, *self.candidates), "one of the candidates"),
            ("eta", 1.0 <= self.eta < math.inf, "1 or more"),
            ("finalists", self.finalists >= 1, "1 or more"),
            ("alpha", 0.0 < self.alpha < 1.0, "above 0 and below 1"),
        ]

    @property
    def threshold(self) -> float:
        """The e-value that makes a clear loser."""
        return max(1, len(self.candidates) - 1) / self.alpha

    @property
    def most_scores(self) -> int:
        """How many scores the race asks for at most, when nobody is a clear loser."""
        fixed = int(self.incumbent is not None)
        running, before, total = len(self.candidates) - fixed, 0, 0
        for rung in self.rungs:
            total += (running + fixed) * (rung - before)
            running, before = self.passing(running), rung
        return total

    def passing(self, challengers: int) -> int:
        """How many of so many challengers a halving leaves."""
        return min(challengers, max(self.finalists, math.ceil(challengers / self.eta)))


def rungs_of(examples: int, first: int, eta: float = 2.0) -> tuple[int, ...]:
    """`first`, first * eta, ... and at last all; a rung less than eta times below all is left out.

    Forty examples from ten by 2: (10, 20, 40), fifty: (10, 20, 50). Raises Invalid unless
    examples and first are 1 or more, and eta above 1.
    """
    if examples < 1 or first < 1 or not 1.0 < eta < math.inf:
        raise Invalid(
            f"rungs of {examples} examples from {first} by {eta}",
            field="rungs",
            rule="examples and first of 1 or more, eta above 1",
        )
    found, rung = [], float(first)
    while rung * eta <= examples:
        found.append(int(rung))
        rung = max(rung * eta, int(rung) + 1.0)
    return (*(n for n in found if n < examples), examples)


class Race:
    """The state of a race: what is wanted next, and who is left and why.

    Every answer is a function of the plan and of the set of scores told, so results may arrive in
    any order, twice, or be replayed after a crash, and for candidates long dropped.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._places = {example: place for place, example in enumerate(plan.examples)}
        shape = (len(plan.candidates), len(plan.examples))
        self._scores = np.full(shape, np.nan)  # a row a candidate, a column a place in the order
        self._rows = {name: row for row, name in enumerate(plan.candidates)}
        self._running = list(plan.candidates)
        self._rung = 0  # rungs complete
        self._dropped: list[Dropped] = []

    def next(self) -> list[Wanted]:
        """All that can be scored now, until it is told; empty when the race is over."""
        if self.over:
            return []
        wanted = []
        for name in self._running:
            open_places = np.flatnonzero(np.isnan(self._seen(name, self.plan.rungs[self._rung])))
            if open_places.size:
                wanted.append(Wanted(name, tuple(self.plan.examples[p] for p in open_places)))
        return wanted

    def told(self, candidate: str, scores: Mapping[int, float]) -> None:
        """Take the scores, 0..1, of some examples (a failed example: 0).

        Raises Invalid, and takes none of them, for a candidate or example that is not of the race,
        a score out of range, or one that differs from the score told before.
        """
        row = self._rows.get(candidate)
        if row is None:
            raise Invalid(
                f"{candidate!r} does not race", field="candidate", rule="a candidate of the plan"
            )
        for example, score in scores.items():
            self._check(row, example, score)
        for example, score in scores.items():
            self._scores[row, self._places[example]] = score
        if self.over or not self._has_rung(candidate):
            return
        while not self.over and not self.next():
            self._finish_rung()

    @property
    def over(self) -> bool:
        return self._rung == len(self.plan.rungs)

    @property
    def standing(self) -> tuple[Standing, ...]:
        """Who is still in the race, the best first, equals in the plan's order."""
        n = self.plan.rungs[self._rung - 1] if self._rung else 0
        return tuple(
            Standing(name, self._mean(name, n) if n else 0.0, n) for name in self._ranked(n)
        )

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Who left, in the order of leaving."""
        return tuple(self._dropped)

    @property
    def winner(self) -> str | None:
        """The best over all examples, the incumbent where it is as good; None before the end."""
        return self._ranked(len(self.plan.examples))[0] if self.over else None

    def against_incumbent(self, confidence: float = 0.95, seed: int = 0) -> Comparison | None:
        """The winner against the incumbent on all examples; None without one, or if it won itself.

        Flattering, as the winner was chosen by these very examples: what is believed in the end
        comes from examples that the race has not seen.
        """
        incumbent = self.plan.incumbent
        if self.winner is None or incumbent is None or self.winner == incumbent:
            return None
        rows = [self._seen(name, len(self.plan.examples)) for name in (incumbent, self.winner)]
        return compare_scores(rows[0].tolist(), rows[1].tolist(), confidence=confidence, seed=seed)

    def _check(self, row: int, example: int, score: float) -> None:
        if example not in self._places:
            raise Invalid(
                f"example {example} is not in the race", field="scores", rule="examples of the plan"
            )
        if not 0.0 <= score <= 1.0:
            raise Invalid(
                f"the score of example {example} is {score}", field="scores", rule="between 0 and 1"
            )
        before = self._scores[row, self._places[example]]
        if before != score and not np.isnan(before):
            raise Invalid(
                f"the score of example {example} was {before} and is {score}",
                field="scores",
                rule="one score a candidate and example",
            )

    def _has_rung(self, name: str) -> bool:
        """Cheap, and mostly false: spares asking all the runners at every score told."""
        return not np.isnan(self._seen(name, self.plan.rungs[self._rung])).any()

    def _finish_rung(self) -> None:
        n = self.plan.rungs[self._rung]
        self._rung += 1
        leader = self._ranked(n)[0]
        for name in self._challengers(n):
            if name != leader and self._evidence(name, leader, n) >= math.log(self.plan.threshold):
                self._drop(name, "clear_loser", leader, n)
        if self.over:
            return
        challengers = self._challengers(n)
        for name in challengers[self.plan.passing(len(challengers)) :]:
            self._drop(name, "halved", leader, n)

    def _drop(
        self, name: str, reason: Literal["clear_loser", "halved"], leader: str, n: int
    ) -> None:
        self._running.remove(name)
        self._dropped.append(
            Dropped(
                candidate=name,
                reason=reason,
                n=n,
                mean=self._mean(name, n),
                leader=leader,
                leader_mean=self._mean(leader, n),
                e_value=math.exp(min(700.0, self._evidence(name, leader, n))),
                threshold=self.plan.threshold,
            )
        )

    def _ranked(self, n: int) -> list[str]:
        """Runners by mean over the first n; of equals the incumbent, then the plan's order."""
        return sorted(
            self._running,
            key=lambda name: (
                -self._mean(name, n) if n else 0.0,
                name != self.plan.incumbent,
                self._rows[name],
            ),
        )

    def _challengers(self, n: int) -> list[str]:
        return [name for name in self._ranked(n) if name != self.plan.incumbent]

    def _evidence(self, name: str, leader: str, n: int) -> float:
        return log_paired_e(difference(self._seen(leader, n), self._seen(name, n)).tolist())

    def _mean(self, name: str, n: int) -> float:
        return math.fsum(self._seen(name, n)) / n  # exact, so that equal rows are equal

    def _seen(self, name: str, n: int) -> Vector:
        return self._scores[self._rows[name], :n]
