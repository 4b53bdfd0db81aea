"""Programs written as classes, as a user's own package would hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import dspy


class TwoSteps(dspy.Module):  # type: ignore[misc]
    """Drafts, then judges; with a sync path only."""

    def __init__(self, tone: str = "plain") -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft: str", temperature=0.3)
        self.judge = dspy.ChainOfThought("question, draft -> answer: str, sure: bool")
        self.tone = tone

    def forward(self, question: str, hint: str | None = None) -> Any:
        draft = self.draft(question=f"{question} ({self.tone}; {hint})").draft
        return self.judge(question=question, draft=draft)


class Topic(dspy.Module):  # type: ignore[misc]
    """One predictor, with an async path; counts its runs, which only a copy may see."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.Predict(
            dspy.Signature("text: str, k: int -> topic: str", "Name the topic.")
        )
        self.runs = 0

    def forward(self, text: str, k: int = 3, style: Literal["short", "long"] = "short") -> Any:
        self.runs += 1
        return self.classify(text=text, k=k)

    async def aforward(
        self, text: str, k: int = 3, style: Literal["short", "long"] = "short"
    ) -> Any:
        self.runs += 1
        prediction = await self.classify.acall(text=text, k=k)
        prediction["runs"] = self.runs
        return prediction


class Everywhere(dspy.Module):  # type: ignore[misc]
    """Calls one predictor in threads that DSPy starts, and one that it makes while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = dspy.Predict("word -> shout")

    def forward(self, words: list[str]) -> Any:
        shouts = dspy.Parallel(num_threads=2, disable_progress_bar=True)(
            [(self.upper, {"word": word}) for word in words]
        )
        late = dspy.Predict("word -> shout")(word="late")
        return dspy.Prediction(shouts=[shout.shout for shout in [*shouts, late]])


class Careless(dspy.Module):  # type: ignore[misc]
    """Fails by itself, or returns what is no prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        if question == "fail":
            raise KeyError("its own mistake")
        return question


class NotAProgram:
    """Importable, but no dspy.Module."""


def questions() -> Iterator[Any]:
    """Rows of a dataset: a mapping and an example of DSPy's."""
    yield {"question": "What is 1 + 1?", "answer": "2"}
    yield dspy.Example(question="What is 2 + 2?", answer="4")


def no_rows() -> int:
    return 4


def odd_rows() -> list[int]:
    return [4]
