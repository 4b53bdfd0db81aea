"""Train examples as demos: which predictors can take them, which label each has, balanced sets."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from dspex_ray.core.canonical import canonical_json
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.edits import Predictor, with_demos
from dspex_ray.programs.model import Artifact
from dspex_ray.programs.rules import REASONING

_MOST_LABELS = 20  #: more different outputs than these are answers, not labels


def taught(predictors: Iterable[Predictor], examples: Sequence[Example]) -> tuple[str, ...]:
    """The predictors that examples can be demos of: those that hold some of its inputs and all
    of its outputs, reasoning apart."""
    return tuple(
        predictor.name
        for predictor in predictors
        if any(_shows(predictor, example.values) for example in examples)
    )


def usable(predictors: Iterable[Predictor], examples: Iterable[Example]) -> list[Example]:
    """Examples that are a demo of at least one predictor, each content once, in their order."""
    known = list(predictors)
    found = {e.hash: e for e in examples if any(_shows(p, e.values) for p in known)}
    return list(found.values())


def teach(artifact: Artifact, predictors: Iterable[str], demos: Sequence[Example]) -> Artifact:
    """The program with these examples as the only demos of those predictors."""
    for name in predictors:
        artifact = with_demos(artifact, name, [example.values for example in demos])
    return artifact


def labels_of(artifact: Artifact, examples: Sequence[Example]) -> dict[str, str]:
    """By example hash, what tells classes apart: the expected outputs, as JSON.

    Empty when there are no classes: over 20 different ones, or over half as many as examples.
    """
    names = [field.name for field in artifact.signature.outputs]
    found = {e.hash: _label(e.values, names) for e in examples}
    kinds = set(found.values())
    return found if 2 <= len(kinds) <= min(_MOST_LABELS, len(found) / 2) else {}


def balanced_order(
    examples: Sequence[Example], labels: Mapping[str, str], rng: random.Random
) -> list[Example]:
    """All examples, shuffled, labels in turn: each prefix holds about as many of each.

    Without labels just shuffled.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[labels.get(example.hash, "")].append(example)
    for key in sorted(groups):
        rng.shuffle(groups[key])
    order = sorted(groups)
    rng.shuffle(order)
    rows = zip_longest(*(groups[key] for key in order))
    return [example for row in rows for example in row if example is not None]


def set_sizes(most: int, labels: Iterable[str]) -> list[int]:
    """Sizes of demo sets up to `most`: whole rounds of the labels; halves of it without any."""
    kinds = len(set(labels))
    if 1 < kinds <= most:
        return list(range(kinds, most + 1, kinds))
    return sorted({most, max(1, most // 2)})


def drawn_set(
    examples: Sequence[Example], labels: Mapping[str, str], size: int, rng: random.Random
) -> tuple[Example, ...]:
    """`size` examples at random, as many of each label as possible, in random order."""
    chosen = balanced_order(examples, labels, rng)[:size]
    rng.shuffle(chosen)
    return tuple(chosen)


def _shows(predictor: Predictor, values: Mapping[str, Any]) -> bool:
    outputs = [name for name in predictor.outputs if name != REASONING.name]
    return any(values.get(name) is not None for name in predictor.inputs) and all(
        values.get(name) is not None for name in outputs
    )


def _label(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return canonical_json([values.get(name) for name in names]).decode()
