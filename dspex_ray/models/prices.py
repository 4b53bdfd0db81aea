"""Where a model's price comes from: the operator, the shorthand, or the catalog DSPy bundles.

The catalog is read from the installed package's file and never from the network. It holds flat
token rates only here: long-context tiers and service tiers are not in the price book.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dspex_ray.models.model import ModelSpec, Price, Provider

PriceSource = Literal["operator", "shorthand", "catalog", "unknown"]

# Names of the catalog whose entries price what these providers bill. A model behind an address
# of its own is never priced by the catalog: who runs that server, and at what rates, is unknown.
_CATALOG_NAMES: dict[Provider, tuple[str, ...]] = {
    Provider.OPENAI: ("openai",),
    Provider.ANTHROPIC: ("anthropic",),
    Provider.COHERE: ("cohere_chat", "cohere"),
    Provider.HUGGINGFACE: ("huggingface",),
}


class FoundPrice(NamedTuple):
    price: Price
    source: PriceSource


def price_of(spec: ModelSpec) -> FoundPrice:
    """The price to enter in the book; both parts None and source "unknown" when nobody knows."""
    if spec.price is not None:
        return FoundPrice(spec.price, "operator")
    if spec.cost_per_token is not None:
        return FoundPrice(
            Price(
                prompt_usd_per_token=spec.cost_per_token,
                completion_usd_per_token=spec.cost_per_token,
            ),
            "shorthand",
        )
    listed = None if spec.base_url else _catalog_price(spec.provider, spec.model_name)
    return FoundPrice(listed, "catalog") if listed else FoundPrice(Price(), "unknown")


def _catalog_price(provider: Provider, model_name: str) -> Price | None:
    entry = _entry(_CATALOG_NAMES.get(provider, ()), model_name)
    prompt, completion = entry.get("input_cost_per_token"), entry.get("output_cost_per_token")
    if prompt is None or completion is None:
        return None
    cached = entry.get("cache_read_input_token_cost")
    return Price(
        prompt_usd_per_token=Decimal(prompt),
        completion_usd_per_token=Decimal(completion),
        cached_prompt_usd_per_token=None if cached is None else Decimal(cached),
    )


def _entry(names: tuple[str, ...], model_name: str) -> dict[str, Any]:
    catalog = _catalog()
    for key in (*(f"{name}/{model_name}" for name in names), model_name):
        entry = catalog.get(key)
        if isinstance(entry, dict) and entry.get("litellm_provider") in names:
            return entry
    return {}


@cache
def _catalog() -> dict[str, Any]:
    """Name -> entry; empty when DSPy ships no snapshot. Rates keep the file's decimal digits."""
    spec = importlib.util.find_spec("dspy")
    if spec is None or spec.origin is None:
        return {}
    snapshot = Path(spec.origin).parent / "clients" / "model_metadata" / "snapshot.json.gz"
    if not snapshot.is_file():
        return {}
    loaded = json.loads(gzip.decompress(snapshot.read_bytes()), parse_float=Decimal)
    return loaded if isinstance(loaded, dict) else {}
