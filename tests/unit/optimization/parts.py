"""A task whose fake model is the better, the more topics its demos show and the better it is told.

It answers by rule, not by chance: the same prompt, the same answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspex_ray.core.canonical import content_hash
from dspex_ray.datasets.model import Example
from dspex_ray.optimization.model import Budget, Limits, Problem
from dspex_ray.programs.model import Artifact, ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine

TOPICS = ("business", "politics", "sports", "tech")
_WORDS = {
    "business": ("market", "profit", "shares"),
    "politics": ("election", "minister", "vote"),
    "sports": ("goal", "match", "team"),
    "tech": ("chip", "phone", "software"),
}
MAGIC = "carefully"
SAMPLES = "dspex_ray.testing.sample_programs"


class ExactTopic:
    """1 for the right topic. `says` replaces what it gives, or is raised."""

    name = "exact_topic"

    def __init__(self, says: Any = None) -> None:
        self._says = says
        self.calls = 0

    async def score(
        self, example: Mapping[str, Any], outputs: Mapping[str, Any], context: Any
    ) -> Any:
        self.calls += 1
        if isinstance(self._says, Exception):
            raise self._says
        if self._says is not None:
            return self._says
        return float(outputs["topic"] == example["topic"])


def examples(count: int, start: int = 0, seed: int = 0) -> tuple[Example, ...]:
    """Topics in turn; texts differ by number."""
    rng = random.Random(seed)
    found = []
    for number in range(start, start + count):
        topic = TOPICS[number % len(TOPICS)]
        values = {"text": f"{rng.choice(_WORDS[topic])} {number}", "topic": topic}
        found.append(Example(hash=content_hash(values), values=values, number=number))
    return tuple(found)


def program(
    instructions: str = "Name the topic.", adapter: str = "minimal", **module: Any
) -> Artifact:
    signature = f"text -> topic: Literal[{', '.join(map(repr, TOPICS))}]"
    written = {"signature": signature, "instructions": instructions, **module}
    return resolve_source(ProgramSource(adapter=adapter, module=written), allowed_packages=())


def problem(
    artifact: Artifact | None = None,
    train: int = 16,
    dev: int = 12,
    metric: Any = None,
    seed: int = 0,
    threads: int = 4,
    failures: int = 20,
    **budget: Any,
) -> Problem:
    return Problem(
        artifact=artifact or program(),
        train=examples(train),
        dev=examples(dev, start=100),
        metric=metric or ExactTopic(),
        seed=seed,
        budget=Budget(**budget),
        limits=Limits(threads=threads, failures=failures),
    )


def engine(name: str = "pupil") -> FakeEngine:
    return FakeEngine(lambda request: answer(request, name))


def answer(request: Any, name: str = "pupil") -> Any:
    """The topic when the prompt shows it or says MAGIC and the text is an easy one; asked for
    anything else, text of the kind."""
    wanted = request.config.response_format["schema"]["properties"]
    if "topic" not in wanted:
        return {key: _made_up(key, part, request, name) for key, part in wanted.items()}
    text = request.messages[-1].text.removeprefix("text: ")
    shown = {
        json.loads(message.text).get("topic")
        for message in request.messages
        if message.role == "assistant"
    }
    found = _topic(text)
    knows = found in shown or (MAGIC in str(request.system) and _digit(text) % 2 == 0)
    reply = found if knows else TOPICS[_digit(text) % 2]
    return {key: reply if key == "topic" else "because" for key in wanted}


def _topic(text: str) -> str:
    word = text.split()[0]
    return next(topic for topic, words in _WORDS.items() if word in words)


def _digit(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def _made_up(key: str, part: Mapping[str, Any], request: Any, name: str) -> Any:
    if part.get("type", "string") != "string":
        return {"array": [], "object": {}, "boolean": True}.get(part["type"], 1)
    seen = json.dumps([str(request.system), *(m.text for m in request.messages)])
    number = _digit(f"{seen} {request.config.temperature}")
    return f"{name} {key} {number}: work {MAGIC if number % 2 else 'fast'}"


def prompts(fake: FakeEngine) -> Sequence[str]:
    return [
        "\n".join([str(r.system or ""), *(m.text or "" for m in r.messages)]) for r in fake.requests
    ]


class AsyncOnly(dspy.Module):  # type: ignore[misc] # dspy is Any to mypy
    """A program with an async path and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict(f"text -> topic: Literal[{', '.join(map(repr, TOPICS))}]")

    async def aforward(self, text: str) -> Any:
        return await self.classify.acall(text=text)
