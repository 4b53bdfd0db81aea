"""ML value types that signatures can name: bounded numbers and vectors with their own checks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Probability = Annotated[float, Field(ge=0.0, le=1.0, description="0 to 1")]
ConfidenceScore = Annotated[float, Field(ge=0.0, le=1.0, description="0 to 1")]
Embedding = Annotated[
    list[float], Field(min_length=1, max_length=65536, description="a vector of finite numbers")
]
ReasoningChain = Annotated[list[str], Field(description="steps in order, each a sentence or more")]
