"""Carrying out a study: each proposal is made a program, measured on the same examples as all
others, and put on record in the order of asking.

A candidate sees growing prefixes of one example order. In a race it is dropped between them once
even the best that it may come to is beaten by a candidate that an earlier batch measured whole
(`figures.hopeless`). What it was worth until then is told to the study, which by that is no better
than the one that beat it, so that it is never on the front.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import BudgetExhausted, RunHalted, RunRefused
from dspex_ray.optimization.figures import check_measured, figures_of, hopeless, known_only
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.model import Candidate, Outcome, Problem, Score
from dspex_ray.optimization.palette import Palette
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.study import Study
from dspex_ray.optimization.trials import Ask
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact
from dspex_ray.programs.rules import predictor_names
from dspex_ray.stats.pareto import crowding
from dspex_ray.stats.racing import rungs_of

_FIRST = 0.25  #: of the examples, that no candidate is dropped before


class Measured(NamedTuple):
    """A candidate on all examples; on the first `len(scores)` when it was `dropped`, or when the
    run `ended` meanwhile."""

    artifact: Artifact
    hash: str
    scores: list[Score]
    figures: dict[str, float]
    dropped: bool = False
    ended: bool = False


class Search:
    """Of one run, on one event loop. `measure` may run many at once; whatever the order in which
    they end, `tell` decides in the order of numbers."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        bench: Workbench,
        record: Record,
        palette: Palette,
        study: Study,
        order: Sequence[Example],
        *,
        limits: Sequence[Limit] = (),
        racing: bool = False,
    ) -> None:
        self._name, self._problem, self._bench, self._record = name, problem, bench, record
        self._palette, self._study, self._order = palette, study, list(order)
        self._objectives, self._limits = study.objectives, tuple(limits)
        self._rungs = rungs_of(len(order), _first_rung(len(order))) if racing else (len(order),)
        self._others = [metric.name for metric in problem.others]
        self._measuring: dict[str, asyncio.Task[Measured]] = {}
        self._cut: dict[str, Measured] = {}  # under way when the run ended
        self._found: dict[int, Measured] = {}
        self._trials: dict[str, int] = {}  # by candidate: the record's number
        self._whole: list[dict[str, float]] = []
        self._generation = -1  # the first is the program as it is
        self.failed = 0  #: proposals that could not be made a program
        self.halt: RunHalted | None = None  #: set when the budget cannot pay another candidate

    async def run(self, ask: Ask) -> RunHalted | None:
        """Until `ask` (which asks this search) gives no more; what ended it before that."""
        at_once = self._problem.limits.threads
        try:
            await self._bench.trials.run(ask, self.measure, self.tell, at_once)
        except RunHalted as halt:
            return halt
        return None

    def ask(self, n: int) -> list[int]:
        """The numbers of the next proposals: n, or as many as the budget can pay to their end; the
        first is tried whatever the budget is. [] when there are none, and then at the end."""
        wanted = min(n, self._affordable()) if self._study.told else 1
        if wanted < 1:
            return []
        self._generation += 1
        return [proposal.number for proposal in self._study.ask(wanted)]

    async def measure(self, number: int) -> Mapping[str, float]:
        """Its known figures. Raises Invalid when the configuration cannot be applied, RunHalted,
        and what the evaluator raises."""
        artifact = await self._palette.program(self._study.proposal(number).configuration)
        key = artifact_hash(artifact)
        if key not in self._measuring:
            racing = self._raced(artifact, key, number)
            self._measuring[key] = asyncio.ensure_future(racing)
        self._found[number] = await self._measuring[key]
        return known_only(self._found[number].figures)

    def tell(self, number: int, found: Mapping[str, float] | Exception) -> None:
        """Puts it on record. Raises an exception that is not the configuration's fault."""
        if isinstance(found, Exception):
            if not isinstance(found, Invalid):
                raise found
            self.failed += 1
            self._study.tell(number, None)
            return
        measured = self._found[number]
        self._study.tell(number, measured.figures)
        if measured.hash in self._trials:
            return  # another configuration that makes the same program
        self._put(number, measured)
        if not measured.dropped:
            self._whole.append(measured.figures)

    def candidate(self, number: int) -> Candidate:
        """Of a trial that was told."""
        return self._record.get(self._found[number].hash)

    def front(self, most: int = 100) -> Front:
        """Of what was measured whole: of equals the first, the pick by the weights, and of too
        many those with most room around them."""
        pick = self._study.pick()
        objectives = self._objectives
        points = [self._point(number, picked=number == pick) for number in self._front(pick)]
        if len(points) > most:
            rows = [[point.figures[o.name] for o in objectives] for point in points]
            room = crowding(rows, objectives)
            order = sorted(range(len(points)), key=lambda k: (not points[k].picked, -room[k], k))
            points = [points[k] for k in order[:most]]
        first = objectives[0]
        sign = -1 if first.direction == "maximize" else 1
        return Front(
            objectives=objectives,
            limits=self._limits,
            points=tuple(sorted(points, key=lambda p: (sign * p.figures[first.name], p.trial))),
            hypervolume=self._study.hypervolume(),
            reference=self._study.reference or {},
            examples=len(self._order),
        )

    def _front(self, pick: int | None) -> list[int]:
        """The numbers on the front, one for each row of figures: the pick's, or the first."""
        found: dict[tuple[float, ...], int] = {}
        for number in self._study.front():
            figures = self._found[number].figures
            row = tuple(figures[objective.name] for objective in self._objectives)
            if number == pick or row not in found:
                found[row] = number
        return list(found.values())

    def _point(self, number: int, *, picked: bool) -> FrontPoint:
        measured = self._found[number]
        return FrontPoint(
            candidate=measured.hash,
            trial=self._trials[measured.hash],
            configuration=self._palette.shown(self._study.proposal(number).configuration),
            figures=known_only(measured.figures),
            picked=picked,
        )

    def outcome(
        self, best: Candidate | None, halt: RunHalted | None, facts: Mapping[str, Any]
    ) -> Outcome:
        """Errors as `Record.outcome`. What was under way when the run ended is on record too."""
        for measured in self._cut.values():
            if measured.hash not in self._trials:
                self._put(None, measured)
        told = {"candidates_not_applicable": self.failed} if self.failed else {}
        return self._record.outcome(best, halt or self.halt, {**facts, **told})

    # --- one candidate -------------------------------------------------------------------------

    async def _raced(self, artifact: Artifact, key: str, number: int) -> Measured:
        rivals, scores = list(self._whole), list[Score]()
        try:
            for rung in self._rungs:
                examples = self._order[len(scores) : rung]
                found = await self._bench.evaluator.evaluate(artifact, examples)
                scores += found
                self._record.ran(score.error for score in found)
                self._check(number, figures_of(scores, self._others))
                if rung < len(self._order) and self._beaten(scores, rivals):
                    return self._measured(artifact, key, scores, dropped=True)
        except RunHalted:
            if scores:
                self._cut[key] = self._measured(artifact, key, scores, ended=True)
            raise
        return self._measured(artifact, key, scores)

    def _measured(self, artifact: Artifact, key: str, scores: list[Score], **how: bool) -> Measured:
        return Measured(artifact, key, scores, figures_of(scores, self._others), **how)

    def _check(self, number: int, figures: Mapping[str, float]) -> None:
        model = self._study.proposal(number).configuration.get("model")
        named = model if isinstance(model, str) and number > 1 else None
        try:
            check_measured(figures, self._objectives, self._limits, named)
        except Invalid as error:
            raise RunRefused(error) from None

    def _beaten(self, scores: Sequence[Score], rivals: Sequence[Mapping[str, float]]) -> bool:
        return hopeless(scores, len(self._order), rivals, self._objectives, self._limits)

    def _put(self, number: int | None, measured: Measured) -> None:
        """On record, with what led to it; `number` None: it was never told."""
        key, facts = measured.hash, dict[str, Any](figures=known_only(measured.figures))
        parents: list[str] = []
        if number is not None:
            proposal = self._study.proposal(number)
            shown = self._palette.shown(proposal.configuration)
            facts |= {
                "configuration": shown,
                "generation": self._generation,
                "made_by": proposal.made_by,
            }
            facts |= {"demos": demos} if (demos := self._palette.demos(shown)) else {}
            parents = [self._found[p].hash for p in proposal.parents if p in self._found]
        if measured.dropped:
            facts |= {"dropped": "dominated", "dropped_after": len(measured.scores)}
        self._record.add(measured.artifact, self._name, list(dict.fromkeys(parents)))
        self._record.note(key, facts)
        values = zip(self._order, measured.scores, strict=False)
        trial = self._record.scored(key, {example.hash: score.value for example, score in values})
        self._trials[key] = trial.number

    # --- the budget ----------------------------------------------------------------------------

    def _affordable(self) -> int:
        """How many candidates the rest of the budget can pay, by what a run of the program came to
        so far; the limit that is nearest ends the run when there is room for none."""
        budget, spent = self._problem.budget, self._bench.ledger.spent
        runs = max(1, sum(len(measured.scores) for measured in self._found.values()))
        least = float(len(predictor_names(self._problem.artifact)))
        room = math.inf
        for name in ("lm_calls", "tokens", "usd"):
            limit = getattr(budget, name)
            if limit is None:
                continue
            used = float(getattr(spent, name))
            each = max(used / runs, least if name == "lm_calls" else 0.0)
            fits = (float(limit) - used) / (each * len(self._order)) if each else math.inf
            if fits < 1:
                self.halt = BudgetExhausted(name)
            room = min(room, fits)
        return int(min(room, 10**9))


def _first_rung(examples: int) -> int:
    return min(examples, max(2, math.ceil(examples * _FIRST)))
