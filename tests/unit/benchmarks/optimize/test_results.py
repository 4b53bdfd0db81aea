"""Medians, tables, targets and the document."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

import benchmarks.optimize
from benchmarks.optimize import evaluation, overhead, quality, resume, tables, volumes
from benchmarks.optimize.document import PART, PROFILE, About, document, write
from benchmarks.optimize.effort import QUICK
from benchmarks.optimize.figures import OURS, ROWS, Row, find, ratio, row, rows_of
from benchmarks.optimize.goals import GOALS
from benchmarks.optimize.provider import Counts
from benchmarks.tables import kept, part, replaced

_ABOUT = About(date(2026, 1, 2), {"CPU": "one"}, {"Python": "3.11"}, QUICK)
_FOLDER = Path(benchmarks.optimize.__file__).parent


def _evaluations(theirs: float, ours: float) -> list[Row]:
    case = f"{min(evaluation.AT_ONCE)} at once"
    return [
        *rows_of(evaluation.ITEM, case, evaluation.DSPY, [("time", "s", [theirs])]),
        *rows_of(evaluation.ITEM, case, evaluation.actors(1), [("time", "s", [ours])]),
    ]


def _nodes(*seconds: float) -> list[Row]:
    return [
        one
        for count, value in zip(evaluation.NODES, seconds, strict=True)
        for one in rows_of(
            evaluation.NODES_ITEM, evaluation.nodes(count), OURS, [("time", "s", [value])]
        )
    ]


def _advantages(*found: float) -> list[Row]:
    return [
        one
        for who, value in zip((quality.MIPRO, quality.RANDOM), found, strict=True)
        for one in rows_of(quality.ITEM, quality.MEAN, who, [(quality.ADVANTAGE, "", [value])])
    ]


def _paid_twice(*found: float) -> list[Row]:
    return rows_of(resume.ITEM, "kill -9", OURS, [(resume.TWICE, "", [*found])])


def test_a_row_is_the_median_of_what_was_measured() -> None:
    found = row("item", "case", "who", "time", "s", [3.0, None, 1.0, 2.0])
    assert found is not None
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert (found.rounds, found.reached) == (4, 3)
    assert row("item", "case", "who", "time", "s", [None]) is None


def test_a_figure_that_is_missing_has_no_ratio() -> None:
    rows = _evaluations(4.0, 2.0)
    case = rows[0].case
    theirs = find(rows, evaluation.ITEM, case, evaluation.DSPY, "time")
    ours = find(rows, evaluation.ITEM, case, evaluation.actors(1), "time")
    assert ratio(theirs, ours) == 2.0
    assert ratio(theirs, find(rows, evaluation.ITEM, case, "nobody", "time")) is None


def test_a_cell_tells_spread_and_rounds_that_came_to_nothing() -> None:
    rows = rows_of("item", "case", "who", [("calls", "", [100.0, 300.0, None]), ("time", "s", [2])])
    assert tables.by_who(rows, "item") == (
        "| case | calls | time s |\n| --- | ---: | ---: |\n| who | 200 (100 to 300), 2 of 3 | 2 |\n"
    )


def test_a_case_that_lacks_a_measure_shows_it() -> None:
    rows = [
        *rows_of("item", "one", "who", [("time", "s", [1.5])]),
        *rows_of("item", "two", "who", [("calls", "", [7.0])]),
    ]
    assert tables.by_case(rows, "item") == (
        "|  | time s | calls |\n"
        "| --- | ---: | ---: |\n"
        "| one: who | 1.50 | - |\n"
        "| two: who | - | 7 |\n"
    )


@pytest.mark.parametrize(
    ("goal", "rows", "met"),
    [
        (0, _evaluations(2.0, 2.0), True),
        (0, _evaluations(1.9, 2.0), False),
        (1, _nodes(8.0, 4.0, 2.0), True),
        (1, _nodes(8.0, 4.0, 2.5), False),
        (2, _advantages(2.0, 3.0), True),
        (2, _advantages(1.9, 3.0), False),
        (3, _paid_twice(0, 0, 0), True),
        (3, _paid_twice(0, 0, 1), False),  # the worst of them counts
    ],
)
def test_a_target_is_met_from_its_figure_on(goal: int, rows: list[Row], met: bool) -> None:
    assert GOALS[goal].is_met(rows) is met


def test_what_was_not_measured_meets_nothing() -> None:
    assert all(goal.is_met([]) is None for goal in GOALS)
    assert tables.by_who([], "item") == tables.by_case([], "item") == "Not measured.\n"


def test_a_run_keeps_what_it_does_not_measure(tmp_path: Path) -> None:
    write(tmp_path, _evaluations(2.0, 2.0), _ABOUT)
    results = tmp_path / "RESULTS.md"
    told = replaced(results.read_text(encoding="utf-8"), PROFILE, "It says *why*.")
    results.write_text(told, encoding="utf-8")
    write(tmp_path, _evaluations(3.0, 2.0), _ABOUT)
    again = results.read_text(encoding="utf-8")
    assert kept(again, PROFILE) == "It says *why*."
    assert "16 at once: 1.50" in again
    assert ROWS.validate_json((tmp_path / "results.json").read_bytes()) == _evaluations(3.0, 2.0)


def test_a_whole_run_becomes_a_part_of_the_main_document(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text(f"# Results\n\nBefore.\n\n{part(PART, 'Nothing.')}\nAfter.\n", "utf-8")
    for _ in range(2):
        assert write(tmp_path / "optimize", _evaluations(3.0, 2.0), _ABOUT, results) == results
        text = results.read_text("utf-8")
        results.write_text(replaced(text, PROFILE, "It says *why*."), "utf-8")
    assert text.startswith("# Results\n\nBefore.\n")
    assert text.endswith("\nAfter.\n")
    assert "\n## Evaluation and optimization\n" in text
    assert "\n### Targets\n" in text
    assert kept(text, PROFILE) == "It says *why*."
    assert "Nothing." not in text


def test_the_document_says_what_was_simulated() -> None:
    text = document([], _ABOUT)
    assert text.startswith("# Evaluation and optimization\n")
    assert "Simulated: a node is an actor" in text


def test_what_is_committed_can_be_read() -> None:
    file = _FOLDER / "results.json"
    if not file.exists():
        pytest.skip("nothing has been measured yet: make bench-optimize")
    rows = ROWS.validate_json(file.read_bytes())
    named = [(one.item, one.case, one.who, one.measure) for one in rows]
    assert len(set(named)) == len(named) == len(json.loads(file.read_bytes())) > 0


def test_what_was_answered_just_before_a_kill_was_under_way() -> None:
    counts = Counts(asked=10, answered=8, repeated=(5.0, 9.95, 10.02), left=2, span_s=20.0)
    found = resume.told(counts, at=10.0, seconds=7.0)
    assert (found.twice, found.on_the_way, found.cut_off) == (1, 2, 2)
    assert (found.answers, found.seconds) == (8, 7.0)


def test_trials_are_told_by_the_batch_and_averaged() -> None:
    assert overhead.between([10.0, 10.0, 10.3, 10.3, 10.6]) == pytest.approx(150)
    with pytest.raises(ValueError, match="1 trials"):
        overhead.between([10.0])


def test_hypervolumes_are_told_by_landscape_when_they_are_there(tmp_path: Path) -> None:
    file = tmp_path / "hypervolume.json"
    assert volumes.volumes(file) == []
    of = {"landscape": "zdt1", "kind": "smooth", "low": 0.2, "high": 0.7}
    ours = {**of, "sampler": OURS, "median": 0.6, "won": None, "p": None}
    theirs = {**of, "sampler": "random", "median": 0.3, "won": 0.9, "p": 0.01}
    told = {"seeds": [100, 120], "evaluations": {"zdt1": 80}, "rows": [ours, theirs]}
    file.write_text(json.dumps(told), encoding="utf-8")
    rows = volumes.volumes(file)
    assert [(one.case, one.who, one.measure, one.value, one.rounds) for one in rows] == [
        ("zdt1 (smooth)", OURS, "hypervolume", 0.6, 20),
        ("zdt1 (smooth)", "random", "hypervolume", 0.3, 20),
        ("zdt1 (smooth)", "random", "seeds that ours is ahead on", 0.9, 20),
        ("zdt1 (smooth)", "random", "p", 0.01, 20),
    ]
    assert "| random | 0.30 (0.20 to 0.70) | 0.90 | 0.01 |" in document(rows, _ABOUT)
