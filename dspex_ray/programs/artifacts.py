"""Artifacts as JSON: their address, and their way back from a row or a file, checked."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import Invalid
from dspex_ray.core.noun import no_nul
from dspex_ray.programs.model import ARTIFACT_SCHEMA, Artifact

_ADAPTER: TypeAdapter[Artifact] = TypeAdapter(Artifact)


def artifact_payload(artifact: Artifact) -> dict[str, Any]:
    """The JSON form, in canonical key order.

    Raises Invalid when it holds what JSON or Postgres cannot (NaN, lone surrogates, U+0000).
    """
    # mode="json" would write NaN as null.
    payload: dict[str, Any] = _stable(artifact.model_dump(mode="python", by_alias=True))
    no_nul(payload, "artifact")
    _hashed(payload)
    return payload


def artifact_hash(artifact: Artifact) -> str:
    """64 hex digits, the same for every artifact of equal content."""
    return _hashed(artifact_payload(artifact))


def load_artifact(payload: Any, expected_hash: str | None = None) -> Artifact:
    """Raises Invalid: rule "schema" for a schema unknown here, "content hash" for a mismatch."""
    if not isinstance(payload, dict):
        raise Invalid("An artifact is a JSON object", field="artifact", rule="type")
    schema = payload.get("schema")
    if schema != ARTIFACT_SCHEMA or isinstance(schema, bool):
        raise Invalid(
            f"Artifact schema {schema!r} is not known (known: {ARTIFACT_SCHEMA})",
            field="schema",
            rule="schema",
        )
    payload = _stable(payload)
    actual = _hashed(payload)
    if expected_hash is not None and actual != expected_hash:
        raise Invalid(
            f"The artifact's content hashes to {actual}, not to {expected_hash}",
            field="hash",
            rule="content hash",
        )
    try:
        return _ADAPTER.validate_python(payload)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "artifact"
        raise Invalid(
            f"Invalid artifact: {where}: {wrong['msg']}", field=where, rule=wrong["type"]
        ) from None


def _stable(value: Any) -> Any:
    """The value as Postgres' jsonb gives it back, but for keys in alphabetical order.

    jsonb forgets the order of keys, which DSPy would print into prompts, and knows neither -0.0
    nor the difference between 1e16 and the same integer.
    """
    if isinstance(value, dict):
        return {key: _stable(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and (value == 0 or abs(value) >= 1e15) and value.is_integer():
        return int(value) if value else 0.0
    return value


def _hashed(payload: dict[str, Any]) -> str:
    try:
        return content_hash(payload)
    except (ValueError, TypeError):
        raise Invalid(
            "The artifact holds a value that JSON cannot (NaN, an infinity or a lone surrogate)",
            field="artifact",
            rule="json",
        ) from None
