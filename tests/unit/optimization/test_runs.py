"""Decisions about runs: progress, verdicts, versions, estimates; and the files of tune_configs/."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dspex_ray.core.convergence import ConvergenceStatus
from dspex_ray.core.errors import TransitionRefused
from dspex_ray.optimization.budget import Ledger
from dspex_ray.optimization.estimate import Sizes, call_size, estimate
from dspex_ray.optimization.model import Budget, Outcome, Spent
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.registry import builtin_registry
from dspex_ray.optimization.run_rules import (
    LOST_AFTER,
    MAX_SUBMISSIONS,
    SILENT_AFTER,
    JobState,
    Verdict,
    at_least,
    chosen,
    label_of,
    parts_by_name,
    progress,
    verdict,
)
from dspex_ray.optimization.runs import (
    RUN_MACHINE,
    NewOptimization,
    OptimizationRun,
    RunExamples,
    RunStatus,
    RunTrial,
)
from tests.unit.client import wire
from tests.unit.optimization.parts import problem, program

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CONFIGS = sorted((Path(__file__).parents[3] / "tune_configs").glob("*.yaml"))
REGISTRY = builtin_registry()


def a_run(status: RunStatus = RunStatus.RUNNING, **change: Any) -> OptimizationRun:
    times = {"created_at": NOW, "updated_at": NOW, "started_at": NOW, "submitted_at": NOW}
    return OptimizationRun.model_validate(
        wire.optimization(status=status, job="j", submissions=1, **times) | change
    )


def a_trial(number: int, **change: Any) -> RunTrial:
    at = NOW + timedelta(seconds=10 * number)
    return RunTrial.model_validate(
        wire.trial(number, at=at, lm_calls=10 * number, standing=0.1 * number) | change
    )


# --- the machine -----------------------------------------------------------------------------


def test_what_has_ended_goes_on_only_by_a_resume() -> None:
    for status in RunStatus:
        allowed = RUN_MACHINE.allowed(status)
        if status is RunStatus.COMPLETED:
            assert allowed == frozenset()
        elif status.ended:
            assert allowed == {"resume"}
        else:
            assert {"cancel", "fail"} <= allowed


@given(st.lists(st.sampled_from(["start", "complete", "fail", "cancel", "lose", "resume"])))
def test_only_a_started_run_completes(events: list[str]) -> None:
    state, running = RUN_MACHINE.initial, False
    for event in events:
        try:
            state = RUN_MACHINE.next(state, event)
        except TransitionRefused:
            continue
        assert state != RunStatus.COMPLETED or running
        running = state == RunStatus.RUNNING


# --- progress --------------------------------------------------------------------------------


def test_progress_is_the_limit_nearest_to_its_end() -> None:
    run = a_run(
        budget={"lm_calls": 400, "usd": "1"},
        estimate=wire.ESTIMATE | {"lm_calls": 100},
        spent={"lm_calls": 50, "usd": "0.9", "seconds": 20.0},
        heartbeat_at=NOW + timedelta(seconds=50),
    )
    trials = [a_trial(1), a_trial(2), a_trial(3, standing=None), a_trial(4)]
    found = progress(run, trials, NOW + timedelta(seconds=50))
    assert (found.percent, found.trials) == (90.0, 4)
    assert found.best_trial == 4
    assert found.best_score == pytest.approx(0.4)
    assert found.convergence.status is ConvergenceStatus.IMPROVING
    assert found.expected_end == NOW + timedelta(seconds=100)  # ten seconds for each tenth of calls
    assert found.duration_s == 20.0


def test_progress_of_a_run_that_waits_and_of_one_that_is_done() -> None:
    waiting = progress(a_run(RunStatus.PENDING, started_at=None), (), NOW)
    assert (waiting.percent, waiting.best_score, waiting.expected_end) == (0.0, None, None)
    assert waiting.convergence.status is ConvergenceStatus.PENDING
    done = progress(a_run(RunStatus.COMPLETED, ended_at=NOW), [a_trial(1)], NOW)
    assert (done.percent, done.expected_end) == (100.0, None)


def test_without_any_limit_nobody_knows_how_far_it_is() -> None:
    run = a_run(budget={}, estimate=wire.ESTIMATE | {"lm_calls": None})
    assert progress(run, [a_trial(1)], NOW).percent is None


# --- lost and found --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "job", "silent", "change", "expected"),
    [
        ("pending", JobState.DEAD, 60, {"submitted_at": None}, Verdict()),
        ("pending", JobState.ALIVE, 3600, {}, Verdict()),
        ("pending", JobState.DEAD, 1, {}, Verdict()),
        ("pending", JobState.DEAD, 10, {}, Verdict(submit=True)),
        ("running", JobState.ALIVE, 60, {}, Verdict()),
        ("running", JobState.ALIVE, LOST_AFTER.seconds, {}, Verdict("lose", True)),
        ("running", JobState.DEAD, 1, {}, Verdict()),
        ("running", JobState.DEAD, 10, {}, Verdict("lose", True)),
        ("running", JobState.STOPPED, 10, {}, Verdict("cancel")),
        ("running", JobState.DEAD, 10, {"job": None}, Verdict()),
        ("running", JobState.DEAD, SILENT_AFTER.seconds, {"job": None}, Verdict("lose", True)),
        (
            "running",
            JobState.DEAD,
            10,
            {"submissions": MAX_SUBMISSIONS},
            Verdict("fail", False, "its process died 5 times"),
        ),
    ],
)
def test_verdicts(
    status: str, job: JobState, silent: int, change: dict[str, Any], expected: Verdict
) -> None:
    run = a_run(RunStatus(status), heartbeat_at=NOW, **change)
    assert verdict(run, job, NOW + timedelta(seconds=silent)) == expected


def test_what_was_surely_spent() -> None:
    told = Spent(usd=Decimal("0.1"), lm_calls=12, seconds=9)
    kept = Spent(usd=Decimal("0.2"), lm_calls=10, tokens=5)
    expected = Spent(usd=Decimal("0.2"), lm_calls=12, tokens=5, seconds=9)
    assert at_least(told, kept) == expected


# --- what becomes a version ------------------------------------------------------------------


def an_outcome(scores: dict[str, float]) -> tuple[Outcome, dict[str, str]]:
    """Candidates by their instructions, each measured on all of dev with its score."""
    task = problem()
    record = Record(task, Ledger(task.budget))
    record.scored(record.start.hash, dict.fromkeys((e.hash for e in task.dev), 0.5))
    names = {record.start.hash: "start"}
    for name, score in scores.items():
        made = record.add(program(name), "test")
        names[made.hash] = name
        record.scored(made.hash, dict.fromkeys((e.hash for e in task.dev), score))
    return record.outcome(), names


def test_the_best_become_versions_in_order() -> None:
    outcome, names = an_outcome({"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.1})
    found = chosen(outcome, problem(), 3)
    assert [names[candidate.hash] for candidate, _ in found] == ["b", "c", "a"]
    assert [round(score or 0, 6) for _, score in found] == [0.9, 0.7, 0.6]
    assert chosen(outcome, problem(), 0) == []
    assert len(chosen(outcome, problem(), 20)) == 3  # one is worse than the start


def test_a_search_that_found_nothing_better_makes_no_best_version() -> None:
    outcome, names = an_outcome({"a": 0.2})
    assert names[outcome.best.hash] == "start"
    assert chosen(outcome, problem(), 5) == []


def test_a_label_is_a_name() -> None:
    run = a_run(id=str(UUID(int=7)))
    assert label_of(run) == "optimized-000000000007"


def test_parts() -> None:
    hashes = [f"h{number}" for number in range(10)]
    assert parts_by_name(hashes, RunExamples()) == {"train": tuple(range(10)), "dev": ()}
    parts = parts_by_name(hashes, RunExamples(sizes={"train": 5, "test": 2, "kept": 1}, seed=3))
    assert {name: len(part) for name, part in parts.items()} == {"train": 5, "dev": 0, "test": 2}
    with pytest.raises(ValidationError, match="sizes must have a part 'train'"):
        RunExamples(sizes={"dev": 3})


# --- estimates -------------------------------------------------------------------------------


def estimated(optimizer: str, given: dict[str, Any], budget: Budget | None = None) -> int | None:
    parameters = REGISTRY.parameters(optimizer, given).model_dump()
    sizes = Sizes(predictors=1, train=20, dev=10, prompts=False)
    size = {"tokens_per_call": 100, "answer_tokens": 10}
    return estimate(optimizer, parameters, sizes, budget or Budget(), models=(), **size).lm_calls


@pytest.mark.parametrize(
    ("optimizer", "parameters", "calls"),
    [
        ("LabeledFewShot", {}, 10),
        ("BootstrapFewShot", {}, 30),
        ("BootstrapFewShotWithRandomSearch", {"num_candidate_programs": 2}, 5 * 10 + 3 * 20),
        ("COPRO", {"breadth": 2, "depth": 1}, 2 * 20 + 10 + 2),
        ("SIMBA", {"bsize": 4, "num_candidates": 2, "max_steps": 1}, 16 + 40 + 10 + 2),
        ("BayesianOptimizer", {"num_initial_samples": 2, "max_iterations": 3}, 5 * 10),
        (
            "EnhancedSIMBA",
            {"bsize": 4, "num_candidates": 2, "max_steps": 1, "rounds": 1},
            16 + 40 + 10 + 2 + 8 * 10,
        ),
        (
            "MultiObjective",
            {"population_size": 3, "iterations": 2, "examples": 4},
            7 * 4 + 10,
        ),
    ],
)
def test_estimates(optimizer: str, parameters: dict[str, Any], calls: int) -> None:
    assert estimated(optimizer, parameters) == calls
    assert estimated(optimizer, parameters, Budget(lm_calls=7)) == 7


def test_a_plug_in_is_as_dear_as_its_budget() -> None:
    sizes = Sizes(1, 4, 4, prompts=False)
    size: Any = {"tokens_per_call": 100, "answer_tokens": 10, "models": ()}
    unknown = estimate("TheirOwn", {}, sizes, Budget(), **size)
    assert (unknown.lm_calls, unknown.tokens, unknown.cost_usd) == (None, None, None)
    bounded = estimate("TheirOwn", {}, sizes, Budget(lm_calls=5, usd=Decimal(2)), **size)
    assert (bounded.lm_calls, bounded.tokens, bounded.cost_usd) == (5, 550, Decimal(2))


def test_the_size_of_a_call() -> None:
    assert call_size("", 0, []) == (100, 256)
    assert call_size("x" * 30, 60, [40, None]) == (100 + 10 + 100, 40)


# --- tune_configs/ ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_file_is_a_run(file: Path) -> None:
    asked = NewOptimization.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    parameters = REGISTRY.parameters(asked.optimizer, asked.parameters)
    assert REGISTRY.parameters(asked.optimizer, parameters.stored()) == parameters
    assert asked.budget.lm_calls is not None
    assert asked.examples.sizes is not None
    assert asked.examples.sizes["test"] >= 60


def test_there_is_one_of_each_kind() -> None:
    optimizers = {yaml.safe_load(file.read_text())["optimizer"] for file in CONFIGS}
    assert optimizers >= {"DspexSearch", "MIPROv2", "BootstrapFewShotWithRandomSearch"}


def test_a_file_with_an_unknown_key_is_refused() -> None:
    content = yaml.safe_load(CONFIGS[0].read_text(encoding="utf-8"))
    with pytest.raises(ValidationError, match="budgett"):
        NewOptimization.model_validate(content | {"budgett": {}})
