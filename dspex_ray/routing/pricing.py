"""What a call will cost and what it did cost: measured, or unknown, never a silent zero."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from dspex_ray.models.model import Model, Provider
from dspex_ray.models.rules import cost_of
from dspex_ray.models.tokenizers import count_tokens, estimate_call_cost

# An answer of a few paragraphs. max_tokens is a ceiling that few answers come near.
EXPECTED_OUTPUT_TOKENS = 256


class AttemptPrice(NamedTuple):
    cost_usd: Decimal | None
    source: Literal["measured", "unknown"]


class TokenCounts(NamedTuple):
    """The whole prompt, cached or not, and the whole answer; None = not reported."""

    prompt: int | None
    completion: int | None


def price_attempt(usage: object, model: Model) -> AttemptPrice:
    """From the provider's own counts at the model's present price."""
    cost = cost_of(usage, model.price, model.provider)
    return AttemptPrice(cost, "unknown" if cost is None else "measured")


def token_counts(usage: Any, provider: Provider) -> TokenCounts:
    """Comparable across providers: Anthropic alone counts cached tokens beside the input."""
    prompt = getattr(usage, "input_tokens", None)
    if provider is Provider.ANTHROPIC and prompt is not None:
        prompt += (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return TokenCounts(prompt, getattr(usage, "output_tokens", None))


def cost_estimator(request: Any, model: Model) -> Callable[[], Decimal | None]:
    """USD that this lm15 Request will cost on this model, worked out only when called.

    Counts the text alone (no images), and an answer of 256 tokens or of max_tokens if fewer.
    """

    def estimate() -> Decimal | None:
        if not model.price.known:
            return None
        prompt = count_tokens(_text(request), model.provider, model.model_name).tokens
        limits = (request.config.max_tokens, model.max_tokens, EXPECTED_OUTPUT_TOKENS)
        expected = min(limit for limit in limits if limit is not None)
        return estimate_call_cost(prompt, expected, model.price)

    return estimate


def _text(request: Any) -> str:
    system = request.system
    parts = [system] if isinstance(system, str) else [_part_text(p) for p in system or ()]
    parts += [_part_text(part) for message in request.messages for part in message.parts]
    return "\n".join(parts)


def _part_text(part: Any) -> str:
    text = getattr(part, "text", None)
    return text if isinstance(text, str) else ""
