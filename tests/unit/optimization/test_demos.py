from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.optimization.demos import (
    balanced_order,
    drawn_set,
    labels_of,
    set_sizes,
    taught,
    teach,
    usable,
)
from dspex_ray.optimization.edits import predictors_of
from dspex_ray.programs.model import ModulesArtifact, ProgramSource
from dspex_ray.programs.source import resolve_source
from tests.unit.optimization.parts import TOPICS, examples, program


def test_labels_are_recurring_outputs() -> None:
    rows = examples(12)
    assert set(labels_of(program(), rows).values()) == {f'["{topic}"]' for topic in TOPICS}
    assert labels_of(program(), rows[:4]) == {}  # every output once: these are answers
    assert labels_of(program(), [rows[0], rows[4], rows[8]]) == {}  # one label tells nothing apart


@given(st.integers(4, 40), st.integers(0, 99))
def test_prefixes_of_a_balanced_order_hold_labels_evenly(count: int, seed: int) -> None:
    rows = examples(count)
    labels = {e.hash: e.values["topic"] for e in rows}
    order = balanced_order(rows, labels, random.Random(seed))
    assert sorted(e.number for e in order) == list(range(count))
    for end in range(1, count - count % 4 + 1):
        counts = Counter(labels[e.hash] for e in order[:end])
        assert max(counts.values()) - min(counts[t] for t in TOPICS) <= 1
    assert order == balanced_order(rows, labels, random.Random(seed))


def test_sets_are_balanced_and_shuffled() -> None:
    rows = examples(40)
    labels = {e.hash: e.values["topic"] for e in rows}
    drawn = [drawn_set(rows, labels, 8, random.Random(seed)) for seed in range(20)]
    assert all(Counter(labels[e.hash] for e in d) == dict.fromkeys(TOPICS, 2) for d in drawn)
    assert len({tuple(labels[e.hash] for e in d) for d in drawn}) > 10


def test_sizes_are_whole_rounds_of_labels() -> None:
    assert set_sizes(8, "abcd" * 3) == [4, 8]
    assert set_sizes(8, "abcde") == [5]
    assert set_sizes(3, "abcde") == [1, 3]
    assert set_sizes(8, []) == [4, 8]
    assert set_sizes(1, []) == [1]


def test_only_predictors_whose_outputs_are_given_are_taught() -> None:
    modules = {
        "note": {"signature": "text -> note"},
        "name": {
            "type": "chain_of_thought",
            "signature": "text, note -> topic",
            "inputs": {"note": "note.note"},
        },
    }
    artifact = resolve_source(ProgramSource(modules=modules), allowed_packages=())
    predictors, rows = predictors_of(artifact, allowed_packages=()), examples(2)
    assert taught(predictors, rows) == ("name.predict",)
    assert usable(predictors, [*rows, *rows]) == list(rows)
    blank = rows[0].model_copy(update={"values": {"text": "goal", "topic": None}})
    assert usable(predictors, [blank]) == []
    told = teach(artifact, ["name.predict"], rows)
    assert isinstance(told, ModulesArtifact)
    assert told.modules["name"].demos == tuple(
        {"text": e.values["text"], "topic": e.values["topic"]} for e in rows
    )
    assert told.modules["note"].demos == ()
