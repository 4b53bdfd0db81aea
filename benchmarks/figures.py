"""Rows of results and their arithmetic: percentiles, medians, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Unit = Literal["req/s", "records/s", "ms", "us", "s", "MB", "errors", "% of a core"]
_RATES: frozenset[Unit] = frozenset({"req/s", "records/s"})

UPSTREAM: Final = "upstream"  #: the mock with no server between: a measure, and no rival

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Row(BaseModel):
    """One measured value: the peer's, or ours where `peer` is None.

    `ratio` compares a peer's value with ours of the same name and connections: ours / peer for
    rates, peer / ours for times and sizes, so that above 1 we are ahead. None where there is
    nothing to compare. `connections` is None where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    value: Finite
    unit: Unit
    connections: int | None = Field(default=None, ge=1)
    peer: str | None = None
    ratio: Finite | None = Field(default=None, gt=0)


ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])


def ratio(ours: float, theirs: float, unit: Unit) -> float | None:
    """Above 1 is ahead. None when either is not above 0: added times may come out at nothing."""
    if ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if unit in _RATES else theirs / ours


def compared(rows: Iterable[Row]) -> list[Row]:
    """The rows, each peer's with its ratio to ours, but the upstream's."""
    rows = list(rows)
    ours = {(row.name, row.connections): row.value for row in rows if row.peer is None}

    def filled(row: Row) -> Row:
        own = ours.get((row.name, row.connections))
        if row.peer in {None, UPSTREAM} or own is None:
            return row
        return row.model_copy(update={"ratio": ratio(own, row.value, row.unit)})

    return [filled(row) for row in rows]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the `ordered` values do not exceed.

    Raises ValueError on no values.
    """
    if not ordered:
        raise ValueError("no values: there is no percentile of them")
    rank = math.ceil(share * len(ordered))
    return ordered[max(rank, 1) - 1]


def median(values: Iterable[float]) -> float:
    """Raises statistics.StatisticsError on no values."""
    return statistics.median(values)
