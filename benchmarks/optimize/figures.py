"""Rows of results: what was measured of whom, as the median of rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

OURS: Final = "dspex-ray"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Row(BaseModel):
    """One figure: `measure` (with its `unit`) of `who` in a `case` of an `item`.

    `value` is the median of `rounds` (or seeds), `low` and `high` the least and the greatest of
    them. `reached` counts the rounds in which there was anything to measure: the median is of
    those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: str = Field(min_length=1)
    case: str
    who: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    unit: str
    value: Finite
    low: Finite
    high: Finite
    rounds: int = Field(ge=1)
    reached: int = Field(ge=1)


ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])

Measure = tuple[str, str, Sequence[float | None]]  #: name, unit, one value a round


def row(
    item: str, case: str, who: str, measure: str, unit: str, values: Iterable[float | None]
) -> Row | None:
    """The median of what was measured; None where nothing was."""
    rounds = list(values)
    found = [value for value in rounds if value is not None]
    if not found:
        return None
    return Row(
        item=item,
        case=case,
        who=who,
        measure=measure,
        unit=unit,
        value=round(statistics.median(found), 4),
        low=round(min(found), 4),
        high=round(max(found), 4),
        rounds=len(rounds),
        reached=len(found),
    )


def rows_of(item: str, case: str, who: str, measures: Iterable[Measure]) -> list[Row]:
    made = (row(item, case, who, name, unit, values) for name, unit, values in measures)
    return [one for one in made if one is not None]


def find(rows: Iterable[Row], item: str, case: str, who: str, measure: str) -> Row | None:
    wanted = (item, case, who, measure)
    return next((r for r in rows if (r.item, r.case, r.who, r.measure) == wanted), None)


def ratio(above: Row | None, below: Row | None) -> float | None:
    """Of two medians; None where one is missing or there is nothing to divide by."""
    if above is None or below is None or below.value == 0:
        return None
    return above.value / below.value
