"""Pools of instructions and demo sets that only grow: new members are made of those there are.

Names are given in the order of asking, so that a run that starts again gives the same ones.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.demos import balanced_order
from dspex_ray.optimization.model import Problem
from dspex_ray.optimization.proposals import LONGEST, rewritten
from dspex_ray.optimization.variation import Kind
from dspex_ray.optimization.workbench import Workbench

OWN = "own"  #: the program's, left as they are
NONE = "none"  #: no demos, of a program that has some

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_REMINDERS = ("Be exact and brief.", "Think before you answer.", "Read everything first.")


class Instructions:
    """By name; what a prompt model is to write is only planned until somebody needs the text."""

    def __init__(self, problem: Problem, bench: Workbench) -> None:
        self._problem, self._bench = problem, bench
        self._texts: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._made_of: dict[str, tuple[str, ...]] = {}
        self._writing: dict[str, asyncio.Task[str | None]] = {}

    def named(self, text: str) -> str:
        """The name of this text: a new one, unless it is known."""
        if text not in self._names:
            self._names[text] = self._add(text)
        return self._names[text]

    def mint(self, kind: Kind, parents: Sequence[str], own: str) -> str | None:
        """A text made of its parents, sentence by sentence; where a prompt model is given it will
        be asked to write the text, and the sentences stand when it writes none."""
        texts = [own if name == OWN else self._texts[name] for name in parents]
        rng = random.Random(f"{self._problem.seed} {len(self._texts)}")  # noqa: S311 - words
        made = _joined(*texts) if kind == "crossover" else _altered(texts[0], rng)
        if self._bench.prompt_lm_given:
            name = self._add(made)
            self._made_of[name] = tuple(texts)
            return name
        if made == own:
            return OWN
        return self.named(made) if len(made) <= LONGEST else None

    async def text(self, name: str) -> str:
        """Written now, if it was only planned. Raises RunHalted."""
        made_of = self._made_of.get(name)
        if made_of is None:
            return self._texts[name]
        if name not in self._writing:
            writing = rewritten(self._problem, self._bench, made_of)
            self._writing[name] = asyncio.ensure_future(writing)
        return await asyncio.shield(self._writing[name]) or self._texts[name]

    def _add(self, text: str) -> str:
        name = f"i{len(self._texts) + 1}"
        self._texts[name] = text
        return name


class DemoSets:
    """By name, each a tuple of train examples in their order; `taught` are the predictors that can
    show them."""

    def __init__(
        self,
        seed: int,
        examples: Sequence[Example],
        labels: Mapping[str, str],
        most: int,
        taught: Sequence[str],
    ) -> None:
        self._seed, self._examples, self._labels, self._most = seed, examples, labels, most
        self.taught = tuple(taught)
        self._sets: dict[str, tuple[Example, ...]] = {NONE: ()}

    def names(self, *, own: bool) -> list[str]:
        """`own`: the program has demos of its own, so that none are something else."""
        return [name for name in self._sets if own or name != NONE]

    def named(self, examples: tuple[Example, ...]) -> str:
        for name, known in self._sets.items():
            if [e.hash for e in known] == [e.hash for e in examples]:
                return name
        name = f"d{len(self._sets)}"
        self._sets[name] = examples
        return name

    def hashes(self, name: str) -> list[str]:
        return [example.hash for example in self._sets[name]]

    def values(self, name: str) -> list[dict[str, Any]]:
        return [example.values for example in self._sets[name]]

    def mint(self, kind: Kind, parents: Sequence[str]) -> str | None:
        """Of two sets, some of both, labels in turn; of one, a third of it changed for others of
        the same labels."""
        rng = random.Random(f"{self._seed} {len(self._sets)}")  # noqa: S311 - draws demos
        sets = [self._sets.get(name, ()) for name in parents]
        both = {example.hash: example for one in sets for example in one}
        if kind == "crossover":
            sizes = [len(one) for one in sets if one]
            if not sizes:
                return None
            made = balanced_order(list(both.values()), self._labels, rng)[: rng.choice(sizes)]
            rng.shuffle(made)
        else:
            made = self._exchanged(list(both.values()), rng)
        return self.named(tuple(made)) if made else None

    def _exchanged(self, examples: list[Example], rng: random.Random) -> list[Example]:
        """Places keep their labels where there are others of the label."""
        if not examples:
            return balanced_order(self._examples, self._labels, rng)[: self._most]
        inside = {example.hash for example in examples}
        outside = [example for example in self._examples if example.hash not in inside]
        for place in rng.sample(range(len(examples)), max(1, len(examples) // 3)):
            label = self._labels.get(examples[place].hash)
            fitting = [e for e in outside if self._labels.get(e.hash) == label]
            if fitting:
                taken = rng.choice(fitting)
                outside.remove(taken)
                examples[place] = taken
        return examples


def _joined(one: str, other: str) -> str:
    """The first half of one text's sentences and the second half of the other's."""
    first, second = _SENTENCE.split(one), _SENTENCE.split(other)
    kept = [*first[: (len(first) + 1) // 2], *second[len(second) // 2 :]]
    return " ".join(dict.fromkeys(sentence for sentence in kept if sentence))


def _altered(text: str, rng: random.Random) -> str:
    """A sentence less, or a reminder more."""
    sentences = [sentence for sentence in _SENTENCE.split(text) if sentence]
    if len(sentences) > 1 and rng.random() < 0.5:
        sentences.pop(rng.randrange(len(sentences)))
    else:
        sentences.append(rng.choice([r for r in _REMINDERS if r not in sentences] or _REMINDERS))
    return " ".join(sentences)
