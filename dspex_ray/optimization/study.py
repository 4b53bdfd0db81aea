"""Ask for configurations, tell their figures, get the front: the search over a space.

A generation is what one `ask` gives. Trials are kept by number, so that the order in which a
generation is told changes nothing, and each generation draws from a random stream of its own,
seeded by the study's seed and the generation's first number. Nothing else is remembered: a study
that is asked and told the same again proposes the same again, which is how a run resumes.

Pools that grow: an Optuna study refuses a categorical distribution that changes. Ours is built
anew from the trials told whenever TPE is asked, over the choices of then; a choice keeps its
index, since pools are append-only. Variation takes the choices as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.optimization import samplers
from dspex_ray.optimization.design import first_design
from dspex_ray.optimization.front import HypervolumeMark
from dspex_ray.optimization.portfolio import portfolio
from dspex_ray.optimization.samplers import Draft, Drafts, Sampler, Scene, Told
from dspex_ray.optimization.surrogate import gaussian_process
from dspex_ray.optimization.variation import Growth, Kind, Mint
from dspex_ray.stats import pareto
from dspex_ray.variables.domains import ChoiceVariable
from dspex_ray.variables.model import CompositeVariable, Configuration, Space, Variable
from dspex_ray.variables.rules import TooMany, every

SamplerName = Literal["portfolio", "nsga2", "tpe", "gp", "random"]
SAMPLERS: Mapping[str, Sampler] = {
    "portfolio": portfolio,
    "nsga2": samplers.nsga2,
    "tpe": samplers.tpe,
    "gp": gaussian_process(),
    "random": samplers.random,
}

_STALE = 16  # drafts in a row that were asked before, until all that there is is listed
_ROUNDING = 1e-9  # of the hypervolume: a gain of less is none
_STALE_AT_ALL = 60  # and, where that is too much to list, until the search is over


class Proposal(NamedTuple):
    """What to try. `number` counts from 1 in the order of asking; `parents` are such numbers.

    `made_by`: start (the program as it is), neighbour, sobol, tpe, crossover, mutation, random, or
    rest (one of the last configurations that there are).
    """

    number: int
    configuration: Configuration
    made_by: str
    parents: tuple[int, ...] = ()


class Study:
    """A search for the front of `objectives` within `limits`; `sampler` as the modules `samplers`,
    `portfolio` and `surrogate` say ("gp": by expected improvement; for another acquisition give
    `gaussian_process(...)`). First comes what `design.first_design` says, then the sampler.

    `start` is the configuration that the program has; without one it is the space's defaults,
    where these keep the constraints, and has no neighbours. `initial` counts what comes before the
    sampler. `mint` makes new members for the pools of `growing`, which are paths of plain choices;
    without it the pools grow by `extend` alone.

    Raises Invalid when no configuration keeps the space's constraints, when `start` is not one,
    for no objectives, two of a name, a sampler that is none, or a growing path that is no choice.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        limits: Sequence[Limit] = (),
        *,
        seed: int,
        sampler: SamplerName | Sampler = "portfolio",
        start: Configuration | None = None,
        initial: int | None = None,
        growing: Collection[str] = (),
        mint: Mint | None = None,
    ) -> None:
        self._space = space
        self._objectives = _checked(objectives)
        self._limits = tuple(limits)
        self._seed = seed
        self._sampler = _sampler(sampler)
        self._growth = Growth(tuple(growing), self._minted) if mint else None
        self._mint = mint
        for path in growing:
            _choice(space, path)
        self._proposals: list[Proposal] = []
        self._told: dict[int, Told] = {}
        self._seen: set[str] = set()
        self._design = first_design(space, start, seed, initial)
        self._designed = 0

    @property
    def space(self) -> Space:
        """With all that its pools have grown by."""
        return self._space

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self._objectives

    @property
    def told(self) -> tuple[Told, ...]:
        """By number."""
        return tuple(self._told[number] for number in sorted(self._told))

    def proposal(self, number: int) -> Proposal:
        """Raises Invalid for a number that was never asked."""
        if not 1 <= number <= len(self._proposals):
            raise Invalid(f"trial {number} was not asked", field="number", rule="asked before")
        return self._proposals[number - 1]

    def ask(self, n: int) -> list[Proposal]:
        """The next n, all valid, none asked before; fewer when there are no more, [] at the end."""
        if n < 1:
            raise Invalid(f"n is {n}", field="n", rule="at least 1")
        first = len(self._proposals) + 1
        rng = np.random.default_rng([self._seed, first])
        pending = [p.configuration for p in self._proposals if p.number not in self._told]
        scene = Scene(lambda: self._space, self._objectives, self.told, pending, self._growth)
        for draft in islice(self._new(scene, rng), n):
            self._proposals.append(Proposal(len(self._proposals) + 1, *draft))
        return self._proposals[first - 1 :]

    def tell(self, number: int, figures: Mapping[str, float] | None) -> None:
        """The figures of a trial by name, in the objectives' own units; None: it failed.

        An objective's figure that is no finite number makes a failure too; a limit's figure that
        is NaN breaks the limit. Raises Invalid for a number that was not asked or was told
        already, and for a figure that is missing.
        """
        proposal = self.proposal(number)
        if number in self._told:
            raise Invalid(f"trial {number} was told already", field="number", rule="told once")
        judged = (None, ()) if figures is None else self._judged(figures)
        self._told[number] = Told(number, proposal.configuration, proposal.made_by, *judged)

    def extend(self, path: str, choice: str) -> None:
        """One more member for the pool of `path`; one that it has is no more. Raises Invalid when
        the path is no plain choice, or has its 1,000 members."""
        variable = _choice(self._space, path)
        if choice not in variable.choices:
            grown = {"choices": (*variable.choices, choice)}
            self._space = _replaced(
                self._space, path, ChoiceVariable(**variable.model_dump() | grown)
            )

    def front(self) -> tuple[int, ...]:
        """The numbers of the trials that no other beats, ascending; within the limits, unless none
        is: then those that break them least. () before any trial succeeded."""
        whole, points, violations = self._whole()
        rows = pareto.front(points, self._objectives, violations)
        return tuple(whole[row].number for row in rows)

    def best(self) -> int | None:
        """The first of the best by a single objective; None before any trial succeeded. Raises
        Invalid when there are several objectives: see `pick`."""
        if len(self._objectives) != 1:
            raise Invalid(
                f"there are {len(self._objectives)} objectives", field="objectives", rule="one"
            )
        return next(iter(self.front()), None)

    def pick(self) -> int | None:
        """Of the front, the one with the highest score by the objectives' weights
        (`pareto.weighted_pick`); None before any trial succeeded."""
        whole, points, violations = self._whole()
        if not whole:
            return None
        return whole[pareto.weighted_pick(points, self._objectives, violations)].number

    @property
    def reference(self) -> dict[str, float] | None:
        """By objective, what the hypervolume is measured from: somewhat worse than the worst of
        the first design. None before any trial succeeded."""
        whole, points, _ = self._whole()
        if not whole:
            return None
        corner = pareto.reference_point(points[: len(self._design)], self._objectives)
        return {o.name: figure for o, figure in zip(self._objectives, corner, strict=True)}

    def hypervolume(self) -> tuple[HypervolumeMark, ...]:
        """What the front of the first k trials told dominates, for each k; trials that failed or
        are outside the limits add nothing."""
        reference = self.reference
        corner = tuple((reference or {}).values())
        marks: list[HypervolumeMark] = []
        front: list[tuple[float, ...]] = []
        volume = 0.0
        for count, trial in enumerate(self.told, start=1):
            if trial.figures is not None and not trial.violation:
                grown = [*front, trial.figures]
                rows = pareto.front(grown, self._objectives)
                if len(grown) - 1 in rows:
                    front = [grown[row] for row in rows]
                    volume = max(volume, pareto.hypervolume(front, corner, self._objectives))
            marks.append(HypervolumeMark(trials=count, value=volume))
        return tuple(marks)

    def since_better(self) -> int:
        """How many trials were told since the last one that enlarged the hypervolume, which for
        one objective is since the best one: for a patience. Failures count."""
        values = [0.0, *(mark.value for mark in self.hypervolume())]
        grew = [k for k in range(1, len(values)) if values[k] > values[k - 1] * (1 + _ROUNDING)]
        return len(values) - 1 - max(grew, default=0)

    def _whole(self) -> tuple[list[Told], list[tuple[float, ...]], list[float]]:
        whole = [trial for trial in self.told if trial.figures is not None]
        return whole, [t.figures or () for t in whole], [t.violation for t in whole]

    def _new(self, scene: Scene, rng: np.random.Generator) -> Iterator[Draft]:
        """Drafts that were not asked before, until there are none."""
        while self._designed < len(self._design):
            planned = self._design[self._designed]
            self._designed += 1
            if self._first_time(planned):
                yield planned
        drafts = self._sampler(scene, rng)
        yield from self._until_stale(drafts, _STALE)
        rest = self._rest(rng)
        if rest is None:
            yield from self._until_stale(drafts, _STALE_AT_ALL)
        else:
            yield from filter(self._first_time, rest)

    def _until_stale(self, drafts: Drafts, most: int) -> Iterator[Draft]:
        stale = 0
        while stale < most:
            draft = next(drafts)
            if draft is not None and self._first_time(draft):
                stale = 0
                yield draft
            else:
                stale += 1

    def _first_time(self, draft: Draft) -> bool:
        key = content_hash(draft.configuration)
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _rest(self, rng: np.random.Generator) -> list[Draft] | None:
        """All that there are, in random order; None when they are too many to list."""
        try:
            found = list(every(self._space))
        except TooMany:
            return None
        return [Draft(found[row], "rest") for row in rng.permutation(len(found))]

    def _minted(self, kind: Kind, path: str, parents: tuple[str, ...]) -> str | None:
        assert self._mint is not None
        member = self._mint(kind, path, parents)
        if member is not None:
            self.extend(path, member)
        return member

    def _judged(
        self, figures: Mapping[str, float]
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
        for name in (*(o.name for o in self._objectives), *(limit.name for limit in self._limits)):
            if name not in figures:
                raise Invalid(f"figure {name!r} is missing", field=name, rule="told")
        found = tuple(float(figures[objective.name]) for objective in self._objectives)
        if not all(map(math.isfinite, found)):
            return None, ()
        return found, tuple(limit.violation(figures[limit.name]) for limit in self._limits)


def _checked(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    names = [objective.name for objective in objectives]
    if not names:
        raise Invalid("there are no objectives", field="objectives", rule="at least one")
    if len(set(names)) < len(names):
        raise Invalid("two objectives have one name", field="objectives", rule="unique")
    return tuple(objectives)


def _sampler(name: str | Sampler) -> Sampler:
    if not isinstance(name, str):
        return name
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise Invalid(f"no sampler {name!r} (there are: {known})", field="sampler", rule="known")
    return SAMPLERS[name]


def _choice(space: Space, path: str) -> ChoiceVariable:
    """Raises Invalid when the path has none."""
    leaf = next((leaf for leaf in space.leaves() if leaf.path == path), None)
    if leaf is None or not isinstance(leaf.variable, ChoiceVariable):
        raise Invalid(f"{path!r} is no plain choice of the space", field=path, rule="choice")
    return leaf.variable


def _replaced(space: Space, path: str, variable: ChoiceVariable) -> Space:
    def inside(variables: Mapping[str, Variable], prefix: str) -> dict[str, Variable]:
        found: dict[str, Variable] = {}
        for name, old in variables.items():
            here = prefix + name
            if here == path:
                found[name] = variable
            elif isinstance(old, CompositeVariable) and path.startswith(f"{here}."):
                found[name] = old.model_copy(update={"parts": inside(old.parts, f"{here}.")})
            else:
                found[name] = old
        return found

    return space.model_copy(update={"variables": inside(space.variables, "")})
