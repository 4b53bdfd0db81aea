"""What commands are given: values, files and nouns, or a usage error that says what is wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml
from pydantic import BaseModel

from dspex_ray.client.bodies import made
from dspex_ray.core.errors import Invalid

M = TypeVar("M", bound=BaseModel)

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def noun(kind: type[M], **fields: Any) -> M:
    """The noun of the options that were given (those that are None were not)."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return made(kind, **given)
    except Invalid as error:
        raise typer.BadParameter(error.message) from None


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`name=value` each; the value may hold further equals signs."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {text!r} must read name=value")
        if name in found:
            raise typer.BadParameter(f"{option} {name} is given twice")
        found[name] = value
    return found


def json_object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option} must be a JSON object")
    return value


def read_text(file: Path) -> str:
    """The file's text; `-` is stdin."""
    try:
        if str(file) == "-":
            return sys.stdin.read()
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}") from None


def read_mapping(file: Path) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds."""
    try:
        value = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{file} is not YAML: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{file} must hold a mapping")
    return value


def moment(text: str | None, now: datetime) -> datetime | None:
    """`30m`, `24h`, `7d` before `now`, or an ISO 8601 time (UTC unless it says a zone)."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"time {text!r} must read 30m, 24h, 7d or 2026-01-31T12:00:00Z"
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
