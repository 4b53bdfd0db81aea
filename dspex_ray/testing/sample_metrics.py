"""Metrics written as functions and classes, as a user's own package would hold them."""

from __future__ import annotations

from typing import Any

import dspy


def shares_a_word(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(set(example.answer.split()) & set(prediction.answer.split()))


def in_five(
    gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any, most: int = 5
) -> Any:
    """As GEPA wants its metrics: five parameters, a score with feedback."""
    assert trace is None
    return dspy.Prediction(score=min(most, len(pred.answer)) / 5, feedback="longer")


async def later(example: Any, prediction: Any) -> float:
    return 0.25


def raises(example: Any, prediction: Any) -> float:
    raise KeyError(prediction.answer)


def not_a_number(example: Any, prediction: Any) -> float:
    return float("nan")


def says_none(example: Any, prediction: Any) -> None:
    return None


def over_one(example: Any, prediction: Any) -> float:
    return 5.0


def takes_one(example: Any) -> float:
    return 1.0


class Judged(dspy.Module):  # type: ignore[misc]
    """Asks the LM of its context, as DSPy's own judges do."""

    def __init__(self, best: str = "good") -> None:
        super().__init__()
        self.best = best
        self.judge = dspy.Predict("answer -> grade")

    def forward(self, example: Any, pred: Any, trace: Any = None) -> float:
        return float(self.judge(answer=pred.answer).grade == self.best)


def letters(texts: list[str]) -> list[list[float]]:
    """An embedder: how often each vowel is there."""
    return [[float(text.count(vowel)) for vowel in "aeiou"] for text in texts]


def uneven(texts: list[str]) -> list[list[float]]:
    return [[1.0], [1.0, 2.0]]
