"""How a model is hosted by this instance: what `config.hosting` of a local model may say. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from dspex_ray.core.errors import Invalid
from dspex_ray.core.noun import Noun


class HostingOptions(Noun):
    """`replicas` processes each load the model and compute on one thread. `parallel` answers are
    generated at once in each: more share the reading of weights, fewer share what they have
    understood of a prompt. `prompt_batch` tokens of a prompt are computed together: under 64, and
    with one answer at once, a prompt gets the same answer whatever was asked before it
    (llama.cpp computes attention another way from 64 on, which a cached beginning would show);
    prompts of thousands of tokens then take half as long again."""

    replicas: int = Field(default=1, ge=1, le=64)
    parallel: int = Field(default=2, ge=1, le=16)
    prompt_batch: int = Field(default=512, ge=1, le=4096)


def hosting_options(config: dict[str, Any]) -> HostingOptions:
    """Of a model's `config`; raises Invalid naming the key that is unknown or wrong."""
    given = config.get("hosting", {})
    if not isinstance(given, dict):
        raise Invalid(
            f"config.hosting is {given!r:.100}, not a mapping",
            field="config.hosting",
            rule="mapping",
        )
    try:
        return HostingOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(("config.hosting", *(str(part) for part in first["loc"])))
        raise Invalid(f"{field}: {first['msg']}", field=field, rule=first["type"]) from None
