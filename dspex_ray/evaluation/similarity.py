"""Semantic similarity: the cosine of two texts' embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import numpy as np

from dspex_ray.core.errors import Invalid
from dspex_ray.evaluation.metrics import Made, MetricContext, Own, Values, answered, expected
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.programs.imports import import_function, source_sha256


def similarity(
    spec: MetricSpec, model: str | None, embedder: str | None, allowed: tuple[str, ...]
) -> Made:
    """One of `model` and `embedder` is given. Opposite meanings score 0, as unrelated ones do."""
    embed = None if embedder is None else _embedder(embedder, allowed)

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name, answer = answered(spec, outputs)
        texts = [_text(answer, name), _text(expected(spec, example, name), name)]
        if embed is not None:
            loop = asyncio.get_running_loop()
            vectors = await loop.run_in_executor(context.threads, embed[0], texts)
        else:
            assert model is not None
            vectors = await context.embed(model, texts)
        return cosine(vectors)

    if embed is not None:
        return Own(score, code=embed[1])
    assert model is not None
    return Own(score, models=(model,))


def cosine(vectors: Any) -> float:
    """Of the two rows of `vectors`, 0 to 1, negative ones 0. Raises Invalid for what is no pair
    of finite vectors of one length, neither of them zero."""
    pair = np.asarray(vectors, dtype=np.float64)
    if pair.ndim != 2 or len(pair) != 2 or not np.isfinite(pair).all():
        raise Invalid(
            "the embedder did not give two finite vectors of one length",
            field="metrics.options.embedder",
            rule="vectors",
        )
    lengths = np.linalg.norm(pair, axis=1)
    if not lengths.all():
        raise Invalid(
            "an embedding is zero: it has no direction",
            field="metrics.options.embedder",
            rule="not zero",
        )
    return float(np.clip(pair[0] @ pair[1] / lengths.prod(), 0.0, 1.0))


def _embedder(path: str, allowed: tuple[str, ...]) -> tuple[Any, str]:
    """DSPy's Embedder on the function, and the hash of its file."""
    try:
        function = import_function(path, allowed)
    except Invalid as error:
        raise Invalid(error.message, field="metrics.options.embedder", rule=error.rule) from error
    return dspy.Embedder(function, caching=False), source_sha256(function)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{name!r} must be text", field="metrics.field", rule="text")
    return value
