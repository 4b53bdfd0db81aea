"""Embeddings of texts by a registered model, in OpenAI's wire format: DSPy's own way to hosted
embedding models goes by LiteLLM, with keys of the environment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from dspex_ray.core.errors import DspexRayError, Invalid, ProviderDown, RateLimited
from dspex_ray.models.model import Model
from dspex_ray.models.providers import embeddings_address

_TRIES = 3
_PAUSE_S = 0.5


class Embedded(NamedTuple):
    """One vector a text, in order. `tokens` None = the provider did not say."""

    vectors: list[list[float]]
    tokens: int | None


class _Ask(NamedTuple):
    model: str
    input: list[str]


class _Vector(BaseModel):
    index: int
    embedding: list[float]


class _Usage(BaseModel):
    prompt_tokens: int | None = None


class _Answer(BaseModel):
    data: list[_Vector]
    usage: _Usage = _Usage()


async def embed(model: Model, key: SecretStr | None, texts: Sequence[str]) -> Embedded:
    """Tried again when the provider is busy or away. Raises Invalid for a model that embeds
    nothing, ProviderDown or RateLimited when it does not answer."""
    url, headers = embeddings_address(model, key)
    body = _Ask(model.model_name, list(texts))
    async with httpx.AsyncClient(timeout=model.timeout_s, headers=headers) as http:
        for attempt in range(1, _TRIES + 1):
            failure = await _try(http, url, body, model)
            if isinstance(failure, Embedded):
                return failure
            if attempt == _TRIES or not failure.retryable:
                raise failure
            await asyncio.sleep(failure.retry_after_s or _PAUSE_S * attempt)
    raise AssertionError("the last attempt raises")


async def _try(
    http: httpx.AsyncClient, url: str, body: _Ask, model: Model
) -> Embedded | DspexRayError:
    try:
        response = await http.post(url, json=body._asdict())
    except httpx.HTTPError as error:
        return ProviderDown(f"model {model.name!r} does not answer: {type(error).__name__}")
    if response.status_code == 429:
        return RateLimited(f"model {model.name!r} takes no more for now")
    if response.status_code >= 500:
        return ProviderDown(f"model {model.name!r} answers {response.status_code}")
    if response.status_code != 200:
        return Invalid(
            f"model {model.name!r} does not embed: its provider answers {response.status_code}",
            field="model",
            rule="embeds",
        )
    return _read(response.content, model, wanted=len(body.input))


def _read(content: bytes, model: Model, wanted: int) -> Embedded | DspexRayError:
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError:
        return ProviderDown(f"model {model.name!r} answers what are no embeddings")
    if len(answer.data) != wanted:
        return ProviderDown(f"model {model.name!r} embedded {len(answer.data)} of {wanted} texts")
    ordered = sorted(answer.data, key=lambda vector: vector.index)
    return Embedded([vector.embedding for vector in ordered], answer.usage.prompt_tokens)
