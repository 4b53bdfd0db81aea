"""Numbers on their way into statistics: finite, in shape and in range, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dspex_ray.core.errors import Invalid
from dspex_ray.core.evidence import Interval

PRECISION = 12  # decimals: what differs less is the same figure, rounded differently

Vector = npt.NDArray[np.float64]  # shape (n,)
Matrix = npt.NDArray[np.float64]  # shape (rows, columns)


def vector(values: Sequence[float], field: str, within: Interval | None = None) -> Vector:
    """Shape (n,), n >= 1. Raises Invalid naming `field` when empty, not finite or out of range."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size:
        raise Invalid(
            f"{field} has shape {found.shape}", field=field, rule="one axis with at least one value"
        )
    _refuse(field, found, ~np.isfinite(found), "finite")
    if within is not None:
        outside = (found < within.low) | (found > within.high)
        _refuse(field, found, outside, f"between {within.low:g} and {within.high:g}")
    return found


def difference(after: Vector, before: Vector) -> Vector:
    """after - before, free of rounding: 0.3 - 0.2 is the same difference as 0.2 - 0.1."""
    return np.round(after - before, PRECISION)


def check_confidence(confidence: float) -> None:
    """Raise Invalid unless 0 < confidence < 1."""
    if not 0.0 < confidence < 1.0:
        raise Invalid(f"confidence is {confidence}", field="confidence", rule="above 0 and below 1")


def _refuse(field: str, values: Vector, wrong: npt.NDArray[np.bool_], rule: str) -> None:
    if wrong.any():
        index = int(np.argmax(wrong))
        raise Invalid(f"{field}[{index}] is {values[index]}", field=field, rule=rule)
