"""Decisions about runs: how far along one is, what it ended in, when a lost one starts again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, TypeVar

from dspex_ray.core.errors import NotFound
from dspex_ray.datasets.rules import split
from dspex_ray.optimization.front import Front, FrontPoint
from dspex_ray.optimization.held_out import HeldOutVersion
from dspex_ray.optimization.model import Candidate, Outcome, Problem, Spent
from dspex_ray.optimization.runs import (
    DEV,
    TEST,
    TRAIN,
    OptimizationRun,
    RunExamples,
    RunProgress,
    RunStatus,
    RunTrial,
)
from dspex_ray.stats.convergence import Mark, convergence, estimated_completion, progress_percent
from dspex_ray.stats.convergence import Trial as Tried

P = TypeVar("P", FrontPoint, HeldOutVersion)

SILENT_AFTER = timedelta(seconds=30)  #: a driver says every second that it is alive
LOST_AFTER = timedelta(minutes=5)  #: though its job is said to run: its node may be gone
_ENDING = timedelta(seconds=5)  #: a job that is over, whose driver has just written so
MAX_SUBMISSIONS = 5  #: of one asking; a run that kills its processes is not started for ever


def progress(run: OptimizationRun, trials: Sequence[RunTrial], now: datetime) -> RunProgress:
    """`trials` in order. Only those on all examples tell a score and whether it still pays."""
    whole = [(trial.number, trial.standing) for trial in trials if trial.standing is not None]
    number, score = max(whole, key=lambda one: (one[1], -one[0]), default=(None, None))
    limits = _limits(run)
    marks = _marks(run, trials, limits, now)
    done = run.status is RunStatus.COMPLETED
    percent = 100.0 if done else progress_percent(_used(run.spent), limits)
    running = run.status is RunStatus.RUNNING
    return RunProgress(
        percent=percent,
        trials=len(trials),
        best_score=score,
        best_trial=number,
        convergence=convergence([Tried(standing) for _, standing in whole], run.convergence),
        expected_end=estimated_completion(marks, now) if running else None,
        duration_s=_duration(run, now),
    )


def parts_by_name(hashes: Sequence[str], examples: RunExamples) -> dict[str, tuple[int, ...]]:
    """Positions of train and dev, and of test if there is such a part, in seeded order; without
    sizes all are train, as imported.

    Raises Invalid for sizes that the dataset cannot fill.
    """
    if examples.sizes is None:
        return {TRAIN: tuple(range(len(hashes))), DEV: ()}
    parts = split(hashes, examples.sizes, examples.seed)
    return {TRAIN: parts[TRAIN], DEV: ()} | {n: parts[n] for n in (DEV, TEST) if n in parts}


def label_of(run: OptimizationRun) -> str:
    """What the best version is labelled; of a front, the one picked by weight."""
    return f"optimized-{run.id.hex[-12:]}"


def chosen(outcome: Outcome, problem: Problem, most: int) -> list[tuple[Candidate, float | None]]:
    """The best, then others that were measured on all that it was chosen by and beat the start,
    best first, `most` in all. None of a search that found nothing better than its start.

    Of a front every point, unless `most` is 0: the one picked first, the others in its order.
    """
    start, best = outcome.candidates[0], outcome.best
    if outcome.front is not None and outcome.front.points:
        points = _points(outcome, outcome.front) if most else []
        return [] if [candidate.hash for candidate, _ in points] == [start.hash] else points
    hashes = {example.hash for example in problem.selection}
    if best.hash == start.hash:
        return []
    least = start.mean_on(hashes) or 0.0
    others = [
        (candidate, score)
        for candidate in outcome.candidates
        if (score := candidate.mean_on(hashes)) is not None
        and score > least
        and candidate.hash not in {best.hash, start.hash}
    ]
    others.sort(key=lambda pair: -pair[1])
    return [(best, outcome.score), *others][:most]


def _points(outcome: Outcome, front: Front) -> list[tuple[Candidate, float | None]]:
    """Each program once, with its accuracy on the examples that the front is of."""
    known = {candidate.hash: candidate for candidate in outcome.candidates}
    found: dict[str, float | None] = {}
    for point in sorted(front.points, key=lambda point: not point.picked):
        found.setdefault(point.candidate, point.figures.get("accuracy"))
    return [(known[key], score) for key, score in found.items() if key in known]


def no_front(run: OptimizationRun) -> NotFound:
    """Why a run has none."""
    if not run.status.ended:
        why = f"it is {run.status.value}, and has one when it ends"
    elif run.stopped_because is None:
        why = f"it {run.status.value} before it came to anything"
    else:
        why = f"{run.optimizer} searches by one objective, which has a best and no front"
    return NotFound(f"optimization {run.id} has no front: {why}", kind="front")


def with_versions(outcome: Outcome, numbers: Mapping[str, int]) -> Outcome:
    """Its front and its evidence with the version `numbers` of programs, by their hash."""
    front, evidence = outcome.front, outcome.held_out
    return outcome.model_copy(
        update={
            "front": front
            and front.model_copy(update={"points": _numbered(front.points, numbers)}),
            "held_out": evidence
            and evidence.model_copy(update={"versions": _numbered(evidence.versions, numbers)}),
        }
    )


def _numbered(programs: Sequence[P], numbers: Mapping[str, int]) -> tuple[P, ...]:
    return tuple(one.model_copy(update={"version": numbers.get(one.candidate)}) for one in programs)


def at_least(one: Spent, other: Spent) -> Spent:
    """What was surely spent, of two accounts of it."""
    return Spent(**{name: max(getattr(one, name), getattr(other, name)) for name in _SPENT})


class JobState(Enum):
    """Of the Ray job that a run was submitted as."""

    ALIVE = "alive"
    DEAD = "dead"  #: it ended by itself, or is not known
    STOPPED = "stopped"  #: somebody stopped it


class Verdict(NamedTuple):
    """What is to be done with a live run: an event for its machine, then maybe a submission."""

    event: str | None = None
    submit: bool = False
    error: str | None = None


def verdict(run: OptimizationRun, job: JobState, now: datetime) -> Verdict:
    """A run whose process died starts again, a bounded number of times; one whose job somebody
    stopped is cancelled."""
    if run.submitted_at is None and run.status is RunStatus.PENDING:
        return Verdict()  # its first submission is under way
    told = (run.submitted_at, run.heartbeat_at, run.updated_at)
    silent = now - max(at for at in told if at is not None)
    waiting = run.status is RunStatus.PENDING
    if job is JobState.ALIVE and (waiting or silent < LOST_AFTER):
        return Verdict()
    if silent < (_ENDING if run.job is not None else SILENT_AFTER):
        return Verdict()
    if job is JobState.STOPPED:
        return Verdict(event="cancel")
    if run.submissions >= MAX_SUBMISSIONS:
        return Verdict(event="fail", error=f"its process died {run.submissions} times")
    return Verdict(event="lose" if run.status is RunStatus.RUNNING else None, submit=True)


_SPENT = tuple(Spent.model_fields)


def _used(spent: Spent) -> dict[str, float]:
    return {name: float(getattr(spent, name)) for name in ("usd", "lm_calls", "tokens", "seconds")}


def _limits(run: OptimizationRun) -> dict[str, float]:
    """The budget; and the estimated calls, which are at most what it comes to."""
    given = run.budget.model_dump(exclude_none=True)
    limits = {name: float(limit) for name, limit in given.items()}
    if run.estimate.lm_calls is not None:
        limits["lm_calls"] = float(run.estimate.lm_calls)
    return limits


def _marks(
    run: OptimizationRun, trials: Sequence[RunTrial], limits: dict[str, float], now: datetime
) -> list[Mark]:
    """By calls, from the last start on."""
    calls = {"lm_calls": limits["lm_calls"]} if "lm_calls" in limits else {}
    if not calls or run.started_at is None:
        return []
    told = [(trial.at, trial.lm_calls) for trial in trials if trial.at >= run.started_at]
    told.append((run.heartbeat_at or now, run.spent.lm_calls))
    marks = [
        Mark(at, percent)
        for at, made in sorted(told)
        if (percent := progress_percent({"lm_calls": float(made)}, calls)) is not None
    ]
    return [mark for mark in marks if mark.percent < 100.0]


def _duration(run: OptimizationRun, now: datetime) -> float | None:
    """Seconds, over all attempts: what earlier ones took is in `spent`."""
    if run.started_at is None:
        return None
    if run.status.ended and run.ended_at is not None:
        return max(run.spent.seconds, 0.0)
    since = (now - (run.heartbeat_at or run.started_at)).total_seconds()
    return run.spent.seconds + (max(0.0, since) if run.status is RunStatus.RUNNING else 0.0)
