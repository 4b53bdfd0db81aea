"""A space as JSON or YAML text, and back: nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import yaml

from dspex_ray.core.errors import Invalid
from dspex_ray.variables.declare import load_space
from dspex_ray.variables.model import Space


def space_payload(space: Space) -> dict[str, Any]:
    """Plain JSON values, in the order they were written."""
    return space.model_dump(mode="json", by_alias=True)


def to_json(space: Space) -> str:
    return json.dumps(space_payload(space), indent=2, ensure_ascii=False, allow_nan=False)


def to_yaml(space: Space) -> str:
    payload = space_payload(space)
    text: str = yaml.safe_dump(payload, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) == payload:
        return text
    # PyYAML writes some line breaks of Unicode (U+0085) as they are, and reads them as spaces.
    escaped: str = yaml.safe_dump(payload, sort_keys=False)
    return escaped


def from_json(text: str) -> Space:
    """Raises Invalid for what is no JSON, or no space."""
    try:
        payload = json.loads(text)
    except ValueError as error:
        raise Invalid(f"The space is not JSON: {error}", field="space", rule="json") from None
    return load_space(payload)


def from_yaml(text: str) -> Space:
    """As `from_json`."""
    try:
        payload = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"The space is not YAML: {error}", field="space", rule="yaml") from None
    return load_space(payload)
