"""Values with rules of their own: money, and the ML types that signatures can name."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, PlainSerializer

Probability = Annotated[float, Field(ge=0.0, le=1.0, description="0 to 1")]
ConfidenceScore = Annotated[float, Field(ge=0.0, le=1.0, description="0 to 1")]
Embedding = Annotated[
    list[float], Field(min_length=1, max_length=65536, description="a vector of finite numbers")
]
ReasoningChain = Annotated[list[str], Field(description="steps in order, each a sentence or more")]


def plain_decimal(value: Decimal) -> str:
    """Digits without an exponent and without trailing zeros: 0.0000001, not 1.00E-7."""
    return f"{value.normalize():f}"


# USD. Decimal in Python, a plain string in JSON: floats would lose the twelfth digit.
Usd = Annotated[Decimal, PlainSerializer(plain_decimal, return_type=str, when_used="json")]
