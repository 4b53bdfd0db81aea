"""Which version serves a unit: a pure function of the stored split, the unit and the time."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from dspex_ray.serving.model import WHOLE, Split
from dspex_ray.stats.assignment import bucket


class Choice(NamedTuple):
    version: int
    epoch: int
    propensity: float  #: the share of traffic the version had, 0 to 1
    bucket: int


def choose_version(split: Split, unit: str, now: datetime) -> Choice:
    """The version for `unit`. Sticky: it changes only when the weights move past its bucket.

    The newest version lies on the lowest buckets, so that a canary that grows keeps its units.
    An arm past its `valid_until` gives its range to the newest arm that has none.
    """
    shares = live_shares(split, now)
    place = bucket(split.salt, unit)
    edge = 0
    for version, weight in shares:
        edge += weight
        if place < edge:
            return Choice(version, split.epoch, weight / WHOLE, place)
    raise AssertionError("shares sum to the whole")  # NewSplit refuses anything else


def live_shares(split: Split, now: datetime) -> list[tuple[int, int]]:
    """(version, basis points) of what runs now, newest version first; sums to 10000."""
    arms = sorted(split.arms, key=lambda arm: -arm.version)
    lapsed = [a for a in arms if a.valid_until is not None and a.valid_until <= now]
    heir = next(arm.version for arm in arms if arm.valid_until is None)
    inherited = sum(arm.weight_bp for arm in lapsed)
    return [
        (arm.version, arm.weight_bp + (inherited if arm.version == heir else 0))
        for arm in arms
        if arm not in lapsed
    ]
