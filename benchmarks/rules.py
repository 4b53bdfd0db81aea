"""Pure decisions of the request path: microseconds a call, the best of five rounds."""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Row
from benchmarks.rounds import Effort
from dspex_ray.programs.signature import parse_signature
from dspex_ray.programs.validation import validate_inputs, validate_outputs
from dspex_ray.routing.model import Conditions
from dspex_ray.routing.rules import Candidate, select_model
from dspex_ray.testing.fake_clock import NOON
from tests.unit.routing.parts import candidate

_SIGNATURE = (
    "question, context: list[str], tags: dict[str, str], k: int = 3, hint?: str 'a hint'"
    " -> answer, topic: Literal['sports', 'business', 'politics'], score: float"
)
_CALLS = 1000


def selection(effort: Effort) -> list[Row]:
    """select_model with 20 assignments, by strategy."""
    cases = {
        "primary": [
            candidate(f"m{i}", "fallback" if i else "primary", priority=-i) for i in range(20)
        ],
        "load_balanced": [candidate(f"m{i}", "load_balanced") for i in range(20)],
        "latency_optimized": [
            candidate(f"m{i}", "latency_optimized", conditions=Conditions(input_size_max=10_000))
            for i in range(20)
        ],
    }
    return [_row(f"select_model.{name}", _select(found)) for name, found in cases.items()]


def signatures(effort: Effort) -> list[Row]:
    """Validating inputs and outputs of eight fields, and parsing the signature's text."""
    spec = parse_signature(_SIGNATURE)
    inputs = {
        "question": "Who won? " * 20,
        "context": ["A paragraph of the context. " * 10] * 5,
        "tags": {"tier": "gold", "region": "eu"},
    }
    outputs = {"answer": "The visitors. " * 10, "topic": "sports", "score": 0.9}
    return [
        _row("signature.validate_inputs", lambda: validate_inputs(spec, inputs)),
        _row("signature.validate_outputs", lambda: validate_outputs(spec, outputs)),
        _row("signature.parse", lambda: parse_signature(_SIGNATURE)),
    ]


def _select(candidates: list[Candidate]) -> Callable[[], Any]:
    inputs, tags, rng = (
        {"question": "why is the sky blue? " * 20},
        {"tier": "gold"},
        random.Random(0),
    )
    return lambda: select_model(candidates, inputs, tags, NOON, rng)


def _row(name: str, call: Callable[[], Any]) -> Row:
    best = min(timeit.repeat(call, number=_CALLS, repeat=5)) / _CALLS
    return Row(name=name, value=round(best * 1e6, 2), unit="us")
