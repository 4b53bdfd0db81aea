"""Microseconds of one select_model over 20 assignments: python -m benchmarks.select_model"""

from __future__ import annotations

import random
import timeit

from dspex_ray.routing.model import Conditions
from dspex_ray.routing.rules import Candidate, select_model
from dspex_ray.testing.fake_clock import NOON
from tests.unit.routing.parts import candidate

CALLS = 5000


def microseconds(candidates: list[Candidate]) -> float:
    """The best of five rounds."""
    inputs, context, rng = (
        {"question": "why is the sky blue? " * 20},
        {"tier": "gold"},
        random.Random(0),
    )
    rounds = timeit.repeat(
        lambda: select_model(candidates, inputs, context, NOON, rng), number=CALLS, repeat=5
    )
    return min(rounds) / CALLS * 1e6


def main() -> None:
    cases = {
        "1 primary, 19 fallbacks": [
            candidate(f"m{i}", "fallback" if i else "primary", priority=-i) for i in range(20)
        ],
        "20 load-balanced": [candidate(f"m{i}", "load_balanced") for i in range(20)],
        "20 latency-optimized, each with input_size_max": [
            candidate(f"m{i}", "latency_optimized", conditions=Conditions(input_size_max=10_000))
            for i in range(20)
        ],
    }
    for name, candidates in cases.items():
        print(f"{name}: {microseconds(candidates):.1f} us")


if __name__ == "__main__":
    main()
