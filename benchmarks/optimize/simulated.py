"""A model whose quality is known: how often it is right depends on the instructions and demos of
its prompt, in a way that a seed hides from whoever searches.

Whether it is right about an example is drawn once for each (candidate, example): the same prompt
has the same answer. Over all texts there could be, a candidate is right with probability
`Hidden.quality`: the true quality, which no optimizer sees.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from threading import Lock
from typing import Final, NamedTuple

from dspex_ray.core.canonical import content_hash
from dspex_ray.datasets.model import Example

TOPICS: Final = ("business", "politics", "sports", "tech", "weather")
START: Final = "Name the topic of the text."  #: instructions that the search begins with
SIGNATURE: Final = f"text -> topic: Literal[{', '.join(map(repr, TOPICS))}]"

PLAIN: Final = 0.30  #: quality with the first instructions and no demo
_WORDING = 0.25  #: what the best instructions add; most add little
_SHOWING = 0.40  #: what the best demos add
_DEMO_MEAN, _DEMO_SD, _DEMOS = 0.3, 0.8, 4.0
_WORST, _BEST = 0.02, 0.98
_SHARED = 0.5  #: of an example's difficulty that all candidates share, as a correlation
_NORMAL: Final = NormalDist()
_OBJECTIVE: Final = "your objective is:"
_ASKED = re.compile(r"starting with the field (.*?) and then ending with", re.DOTALL)
_FIELD = re.compile(r"\[\[ ## (\w+) ## \]\]")
_TEXT = re.compile(r"\[\[ ## text ## \]\]\n(.*?)(?:\n\n|\Z)", re.DOTALL)


class Turn(NamedTuple):
    """A message of a prompt, the system's apart."""

    role: str
    text: str


@dataclass(frozen=True)
class Hidden:
    """The true qualities of one seed."""

    seed: int

    def quality(self, instructions: str, demos: Iterable[str]) -> float:
        """0.02 to 0.98, by the instructions (blanks apart) and the texts of the demos, in any
        order, each once."""
        told, shown = _squeezed(instructions), _shown(demos)
        wording = 0.0 if told == START else _WORDING * self._unit("instructions", told) ** 3
        worth = sum(_DEMO_MEAN + _DEMO_SD * self._normal("demo", text) for text in shown)
        found = PLAIN + wording + _SHOWING * math.tanh(worth / _DEMOS)
        return min(_BEST, max(_WORST, found))

    def right(self, instructions: str, demos: Iterable[str], text: str) -> bool:
        """Whether this candidate is right about this text."""
        shown = _shown(demos)
        alone = self._normal("run", _squeezed(instructions), *shown, text)
        shared = self._normal("example", text)
        drawn = math.sqrt(_SHARED) * shared + math.sqrt(1 - _SHARED) * alone
        return drawn < _NORMAL.inv_cdf(self.quality(instructions, shown))

    def _normal(self, *key: str) -> float:
        return _NORMAL.inv_cdf(self._unit(*key))

    def _unit(self, *key: str) -> float:
        """Above 0 and below 1, the same for the same key everywhere."""
        return _unit(str(self.seed), *key)


class SimulatedModel:
    """Answers prompts of DSPy's chat adapter. Thread-safe.

    Asked for a topic it is right or wrong as `hidden` says. Asked for anything else it makes a
    text up, another one each time.
    """

    def __init__(self, hidden: Hidden) -> None:
        self._hidden = hidden
        self._told: Counter[str] = Counter()
        self._lock = Lock()

    def answer(self, system: str, turns: Sequence[Turn]) -> str:
        wanted = asked_fields(turns)
        if wanted == ["topic"]:
            return _chat([("topic", self._topic(read_prompt(system, turns)))])
        nth = self._times("\n".join([system, *(turn.text for turn in turns)]))
        return _chat((name, f"{name} of kind {_digest(system, str(nth), name)}") for name in wanted)

    def _topic(self, prompt: ReadPrompt) -> str:
        right = label_of(prompt.text)
        if self._hidden.right(prompt.instructions, prompt.demos, prompt.text):
            return right
        others = [topic for topic in TOPICS if topic != right]
        return others[int(_unit("wrong", prompt.text) * len(others))]

    def _times(self, prompt: str) -> int:
        """How often it was asked before: the same text to the same prompt would be no choice."""
        key = _digest(prompt)
        with self._lock:
            self._told[key] += 1
            return self._told[key]


class ReadPrompt(NamedTuple):
    instructions: str
    demos: tuple[str, ...]
    text: str


def asked_fields(turns: Sequence[Turn]) -> list[str]:
    """The outputs that a prompt of the chat adapter asks for; [] for any other prompt."""
    found = _ASKED.search(turns[-1].text) if turns else None
    return _FIELD.findall(found[1]) if found else []


def read_prompt(system: str, turns: Sequence[Turn]) -> ReadPrompt:
    """What a candidate put into a prompt that asks for a topic."""
    _, _, objective = system.rpartition(_OBJECTIVE)
    texts = [
        found[1] for turn in turns if turn.role == "user" and (found := _TEXT.search(turn.text))
    ]
    return ReadPrompt(_squeezed(objective), tuple(texts[:-1]), texts[-1])


def examples(count: int, start: int = 0) -> tuple[Example, ...]:
    """Texts of a dozen words that differ by number, with their topics."""
    return tuple(_example(number) for number in range(start, start + count))


def label_of(text: str) -> str:
    return TOPICS[int(_unit("label", text) * len(TOPICS))]


def _example(number: int) -> Example:
    text = f"Report {number} of desk {number % 7}, as it came in over the wire this morning."
    values = {"text": text, "topic": label_of(text)}
    return Example(hash=content_hash(values), values=values, number=number)


def _chat(fields: Iterable[tuple[str, str]]) -> str:
    return "\n\n".join([*(f"[[ ## {k} ## ]]\n{v}" for k, v in fields), "[[ ## completed ## ]]"])


def _shown(demos: Iterable[str]) -> list[str]:
    return sorted(set(demos))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _digest(*key: str) -> str:
    return hashlib.sha256("\x1f".join(key).encode()).hexdigest()[:12]


def _unit(*key: str) -> float:
    drawn = hashlib.sha256("\x1f".join(key).encode()).digest()[:6]
    return (int.from_bytes(drawn) + 0.5) / 2**48
