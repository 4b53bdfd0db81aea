"""What a run has found so far: candidates, their scores, trials. It survives however a run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.budget import (
    BudgetExhausted,
    Ledger,
    RunCancelled,
    RunHalted,
    RunRefused,
)
from dspex_ray.optimization.evaluator import Evaluator, evaluate_all, raise_first
from dspex_ray.optimization.model import Candidate, Outcome, Problem, Score, StopReason, Trial
from dspex_ray.optimization.rules import program_fails
from dspex_ray.programs.artifacts import artifact_hash
from dspex_ray.programs.model import Artifact

OnTrial = Callable[[Trial, Candidate], None]


class Record:
    """Of one run; thread-safe. The problem's own artifact is its first candidate."""

    def __init__(self, problem: Problem, ledger: Ledger, on_trial: OnTrial | None = None) -> None:
        """`on_trial` is called after each measurement, in the thread that reported it."""
        self._problem, self._ledger, self._on_trial = problem, ledger, on_trial
        self._lock = Lock()
        self._candidates: dict[str, Candidate] = {}
        self._trials: list[Trial] = []
        self._competed_on = frozenset(example.hash for example in problem.selection)
        self._runs = self._failures = 0
        self._codes: set[str] = set()
        self.start = self.add(problem.artifact, "start")

    def add(
        self,
        artifact: Artifact,
        made_by: str,
        parents: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """The candidate of that artifact: the one known already, if there is one."""
        key = artifact_hash(artifact)
        with self._lock:
            known = self._candidates.get(key)
            if known is None:
                known = Candidate(
                    artifact=artifact,
                    hash=key,
                    made_by=made_by,
                    parents=tuple(parents),
                    facts=dict(facts or {}),
                )
                self._candidates[key] = known
            return known

    def compete_on(self, hashes: Sequence[str]) -> None:
        """The examples on which this optimizer compares candidates, if not the selection's."""
        self._competed_on = frozenset(hashes)

    def note(self, key: str, facts: Mapping[str, Any]) -> Candidate:
        """More facts about a candidate."""
        with self._lock:
            known = self._candidates[key]
            changed = known.model_copy(update={"facts": {**known.facts, **facts}})
            self._candidates[key] = changed
            return changed

    def scored(self, key: str, scores: Mapping[str, float], made_by: str | None = None) -> Trial:
        """A measurement, by example hash, of a candidate: added to what is known of it."""
        with self._lock:
            known = self._candidates[key]
            candidate = known.model_copy(update={"scores": {**known.scores, **scores}})
            self._candidates[key] = candidate
            trial = Trial(
                number=len(self._trials) + 1,
                candidate=key,
                made_by=made_by or candidate.made_by,
                score=sum(scores.values()) / len(scores) if scores else 0.0,
                examples=len(scores),
                complete=self._competed_on <= scores.keys(),
                lm_calls=self._ledger.spent.lm_calls,
            )
            self._trials.append(trial)
        if self._on_trial is not None:
            self._on_trial(trial, candidate)
        return trial

    def ran(self, errors: Iterable[str | None]) -> None:
        """Program runs, by their error (None: succeeded).

        Raises RunRefused when the first runs, as many as the problem's limits say, all failed.
        """
        with self._lock:
            for error in errors:
                self._runs += 1
                if error is not None:
                    self._failures += 1
                    self._codes.add(error)
            hopeless = self._runs == self._failures >= self._problem.limits.failures
        if hopeless:
            raise RunRefused(program_fails(self._runs, self._codes))

    def get(self, key: str) -> Candidate:
        return self._candidates[key]

    def best(self) -> Candidate:
        """The best mean among candidates measured on all examples that they compete on.

        Before there is one, those that were measured on most; the first of equals. A lucky few
        examples never beat a whole measurement.
        """
        with self._lock:
            found = list(self._candidates.values())
        whole = [c for c in found if self._competed_on <= c.scores.keys()]
        if not whole:
            most = max(len(c.scores) for c in found)
            whole = [c for c in found if len(c.scores) == most]
        return max(whole, key=lambda c: c.mean_on(self._competed_on & c.scores.keys()) or 0.0)

    def outcome(
        self,
        best: Candidate | None = None,
        halt: RunHalted | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """`best` None: the best so far. Raises Invalid when no program run succeeded, and the
        error of a run that was refused."""
        if isinstance(halt, RunRefused):
            raise halt.error
        if self._runs and self._runs == self._failures:
            raise program_fails(self._runs, self._codes)
        reason, detail = _stopped(halt)
        chosen = self._candidates[(best or self.best()).hash]
        return Outcome(
            best=chosen,
            score=chosen.mean_on({example.hash for example in self._problem.selection}),
            candidates=tuple(self._candidates.values()),
            trials=tuple(self._trials),
            spent=self._ledger.spent,
            stopped_because=reason,
            detail=detail,
            program_runs=self._runs,
            failed_runs=self._failures,
            facts=dict(facts or {}),
        )


async def measure_all(
    evaluator: Evaluator,
    record: Record,
    wanted: Sequence[tuple[Candidate, Sequence[Example]]],
) -> list[list[Score]]:
    """Runs candidates on examples, all side by side, and puts what came of it on record.

    Trials are numbered in the order asked for, whoever was first. Errors as Evaluator's: then
    what was measured whole by that time is on record.
    """
    found = await evaluate_all(evaluator, [(who.artifact, on) for who, on in wanted])
    for (who, examples), scores in zip(wanted, found, strict=True):
        if not isinstance(scores, BaseException):
            record.ran(score.error for score in scores)
            by_hash = {e.hash: score.value for e, score in zip(examples, scores, strict=True)}
            record.scored(who.hash, by_hash)
    return raise_first(found)


def _stopped(halt: RunHalted | None) -> tuple[StopReason, str]:
    if isinstance(halt, BudgetExhausted):
        return StopReason.BUDGET, halt.limit
    if isinstance(halt, RunCancelled):
        return StopReason.CANCELLED, halt.reason
    return StopReason.FINISHED, ""
