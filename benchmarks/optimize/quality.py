"""LM calls and seconds until an optimizer's best program is truly good enough.

Each optimizer with its defaults, but for the number of demos, on the same task, model and seed.
After each of its trials its best so far (what it would hand back if it were ended then) has a true
quality that the simulated model knows and the optimizer does not. A target is a quality that one
in four, or ten, programs drawn blindly has. It counts as reached from when on the best no longer
falls below it. Because one search may be lucky, there is also the mean true quality over all seeds
after so many calls, and the calls until that is what another optimizer ends with.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.figures import percentile
from benchmarks.optimize.effort import Effort
from benchmarks.optimize.engine import simulated_lm
from benchmarks.optimize.figures import OURS, Measure, Row, rows_of
from benchmarks.optimize.ground import Ground
from benchmarks.optimize.simulated import PLAIN, SIGNATURE, START, Hidden, SimulatedModel, examples
from dspex_ray.evaluation.metrics import resolve_metric
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.optimization.metering import FlatMeter
from dspex_ray.optimization.model import Candidate, Limits, Problem, Trial
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.workbench import local_workbench
from dspex_ray.programs.model import Artifact, ModulesArtifact, ProgramSource
from dspex_ray.programs.source import resolve_source

ITEM: Final = "quality"
MIPRO, RANDOM = "DSPy MIPROv2", "DSPy random search"
WHOLE: Final = "the whole search"
MEAN: Final = "mean of all seeds"
LEVEL: Final = "what it ends with"
ADVANTAGE: Final = "their calls / ours"
LATENCY_S: Final = 0.05
TRAIN, DEV, THREADS = 60, 40, 8
DEMOS: Final = 8  #: as DspexSearch has by default; MIPROv2 would take 4, the random search 16
OPTIMIZERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    OURS: ("DspexSearch", {"max_demos": DEMOS}),
    MIPRO: ("MIPROv2", {"max_labeled_demos": DEMOS}),
    RANDOM: ("BootstrapFewShotWithRandomSearch", {"max_labeled_demos": DEMOS}),
}
TARGETS: Final = {"best quarter": 0.75, "best tenth": 0.9}
AFTER: Final = (100, 200, 300, 500, 800)  #: calls, at which the mean is told
_BLIND = 400
_ROUNDING = 1e-9


class Mark(NamedTuple):
    """Where an optimizer stood after a trial: `quality` is the true one of its best so far."""

    calls: int
    seconds: float
    quality: float


class Course(NamedTuple):
    """One search. `calls` and `seconds` in all."""

    marks: tuple[Mark, ...]
    calls: int
    seconds: float


def measure(effort: Effort, ground: Ground) -> list[Row]:
    hiddens = [Hidden(seed) for seed in range(effort.seeds)]
    for name, parameters in OPTIMIZERS.values():  # first runs load code
        asyncio.run(search(name, parameters, Hidden(effort.seeds), 0.0))
    courses: dict[str, list[Course]] = {who: [] for who in OPTIMIZERS}
    for hidden in hiddens:
        latency_s = LATENCY_S if hidden.seed < effort.timed else 0.0
        for who, (name, parameters) in OPTIMIZERS.items():
            course = asyncio.run(search(name, parameters, hidden, latency_s))
            courses[who].append(course)
            _say(hidden.seed, who, course)
    rows = [row for who, found in courses.items() for row in _whole(who, found, effort.timed)]
    rows += [row for who in courses for row in _means(who, courses)]
    for case, share in TARGETS.items():
        goals = [blind_target(hidden, share) for hidden in hiddens]
        rows += _until(case, goals, courses, effort.timed)
    return rows


async def search(name: str, parameters: dict[str, Any], hidden: Hidden, latency_s: float) -> Course:
    """One optimizer by its registry entry, which runs DSPy's as they are."""
    lm = simulated_lm(SimulatedModel(hidden), latency_s)
    known: dict[str, Candidate] = {}
    marks: list[Mark] = []
    task = problem(hidden.seed)
    competed_on = {example.hash for example in task.selection}
    started = time.perf_counter()

    def tried(trial: Trial, candidate: Candidate) -> None:
        known[candidate.hash] = candidate
        best = handed_back(list(known.values()), competed_on)
        seconds = time.perf_counter() - started
        marks.append(Mark(trial.lm_calls, seconds, true_quality(hidden, best.artifact)))

    bench = local_workbench(
        task, lm, prompt_lm=lm, meter=FlatMeter(), prompt_meter=FlatMeter(), on_trial=tried
    )
    outcome = await builtin_registry().optimize(name, task, bench, parameters)
    seconds, calls = time.perf_counter() - started, outcome.spent.lm_calls
    marks.append(Mark(calls, seconds, true_quality(hidden, outcome.best.artifact)))
    return Course(tuple(marks), calls, seconds)


def problem(seed: int) -> Problem:
    return Problem(
        artifact=start(),
        train=examples(TRAIN),
        dev=examples(DEV, start=TRAIN),
        metric=resolve_metric(MetricSpec(metric="exact_match", field="topic"), allowed_packages=()),
        seed=seed,
        limits=Limits(threads=THREADS),
    )


def start() -> Artifact:
    module = {"signature": SIGNATURE, "instructions": START, "config": {"temperature": 0.0}}
    return resolve_source(ProgramSource(module=module), allowed_packages=())


def true_quality(hidden: Hidden, artifact: Artifact) -> float:
    """Of a program of one module."""
    assert isinstance(artifact, ModulesArtifact)
    (module,) = artifact.modules.values()
    demos = [str(demo["text"]) for demo in module.demos]
    return hidden.quality(module.signature.instructions or "", demos)


def blind_target(hidden: Hidden, share: float) -> float:
    """The quality that this share of random programs do not exceed: any instructions, up to eight
    demos of the train examples."""
    rng = random.Random(hidden.seed)
    texts = [str(example.values["text"]) for example in examples(TRAIN)]
    drawn = [
        hidden.quality(f"blind {number}", rng.sample(texts, rng.randint(0, DEMOS)))
        for number in range(_BLIND)
    ]
    return percentile(sorted(drawn), share)


def handed_back(known: Sequence[Candidate], competed_on: Collection[str]) -> Candidate:
    """As `optimization.record.Record.best` has it: the best mean of those measured whole; before
    there is one, of those measured on most. The first of equals."""
    counts = [len(candidate.scores.keys() & competed_on) for candidate in known]
    most = [c for c, count in zip(known, counts, strict=True) if count == max(counts)]
    return max(most, key=lambda c: c.mean_on(c.scores.keys() & competed_on) or 0.0)


def reached(marks: Sequence[Mark], target: float) -> Mark | None:
    """The mark from which on no later one is below the target; None when the last one is. Of marks
    at the same number of calls the last one counts: they were measured side by side."""
    at: Mark | None = None
    for mark in {mark.calls: mark for mark in marks}.values():
        if mark.quality < target:
            at = None
        elif at is None:
            at = mark
    return at


def advantage(ours: Course, theirs: Course, target: float) -> float:
    """Their calls to the target, by ours; all of theirs when they do not reach it, which is less
    than it would take them. 0 when we do not."""
    mine, other = reached(ours.marks, target), reached(theirs.marks, target)
    if mine is None:
        return 0.0
    return (theirs.calls if other is None else other.calls) / mine.calls


def mean_quality(courses: Sequence[Course], calls: int) -> float:
    """Over all courses, of what would be handed back after so many calls: the start before there
    was a trial, what it ended with after its end."""
    return sum(_quality_at(course, calls) for course in courses) / len(courses)


def calls_to_mean(courses: Sequence[Course], level: float) -> int | None:
    """From how many calls on the mean is no more below the level; None when it ends below."""
    steps = sorted({mark.calls for course in courses for mark in course.marks})
    at: int | None = None
    for calls in steps:
        if mean_quality(courses, calls) < level - _ROUNDING:
            at = None
        elif at is None:
            at = calls
    return at


def _quality_at(course: Course, calls: int) -> float:
    before = [mark.quality for mark in course.marks if mark.calls <= calls]
    return before[-1] if before else PLAIN


def _whole(who: str, courses: Sequence[Course], timed: int) -> list[Row]:
    measures: list[Measure] = [
        ("calls", "", [float(course.calls) for course in courses]),
        ("time", "s", [course.seconds for course in courses[:timed]]),
        ("true quality", "", [course.marks[-1].quality for course in courses]),
    ]
    return rows_of(ITEM, WHOLE, who, measures)


def _means(who: str, courses: Mapping[str, Sequence[Course]]) -> list[Row]:
    theirs = courses[who]
    level = mean_quality(theirs, max(course.calls for course in theirs))
    calls, ours = calls_to_mean(theirs, level), calls_to_mean(courses[OURS], level)
    measures: list[Measure] = [
        *((f"after {n} calls", "", [mean_quality(theirs, n)]) for n in AFTER),
        (LEVEL, "", [level]),
        ("calls to that", "", [calls]),
        ("our calls to that", "", [ours]),
    ]
    if who != OURS:
        measures.append((ADVANTAGE, "", [(calls or 0) / ours if ours else 0.0]))
    return rows_of(ITEM, MEAN, who, measures)


def _until(
    case: str, goals: Sequence[float], courses: Mapping[str, Sequence[Course]], timed: int
) -> Iterator[Row]:
    for who, found in courses.items():
        marks = [reached(course.marks, goal) for course, goal in zip(found, goals, strict=True)]
        measures: list[Measure] = [
            ("calls", "", [at and float(at.calls) for at in marks]),
            ("time", "s", [at and at.seconds for at in marks[:timed]]),
        ]
        if who != OURS:
            both = zip(courses[OURS], found, goals, strict=True)
            measures.append((ADVANTAGE, "", [advantage(*each) for each in both]))
        yield from rows_of(ITEM, case, who, measures)


def _say(seed: int, who: str, course: Course) -> None:
    print(
        f"seed {seed}, {who:20} {course.calls} calls, {course.seconds:.1f} s, true quality"
        f" {course.marks[-1].quality:.3f}",
        file=sys.stderr,
        flush=True,
    )
