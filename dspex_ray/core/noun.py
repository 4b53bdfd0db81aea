"""What every noun on the wire shares: frozen, strict about unknown fields, names checked."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from dspex_ray.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "1 to 100 of A-Z a-z 0-9 . _ - and a letter or digit first"


class Noun(BaseModel):
    """A frozen value; unknown fields are refused, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_name(name: str) -> str:
    """The name itself, or ValueError: names go into URLs, file names and headers."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be {NAME_RULE}")
    return name


def require_name(name: str, field: str = "name") -> str:
    """As `check_name`, for callers outside pydantic: raises Invalid naming the field."""
    try:
        return check_name(name)
    except ValueError as error:
        raise Invalid(str(error), field=field, rule="name") from None


Name = Annotated[str, AfterValidator(check_name)]


def no_nul(value: Any, path: str = "body") -> None:
    """Raise Invalid when any string inside holds U+0000, which Postgres text cannot store."""
    if isinstance(value, str):
        if "\x00" in value:
            raise Invalid(f"{path} holds a null byte", field=path, rule="no null bytes")
    elif isinstance(value, dict):
        for key, item in value.items():
            no_nul(key, f"{path} key")
            no_nul(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            no_nul(item, f"{path}[{index}]")
