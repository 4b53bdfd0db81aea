"""Which version serves a unit: a pure function of the stored split, the unit and the time."""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime
from typing import NamedTuple

from dspex_ray.core.errors import Unavailable
from dspex_ray.serving.model import WHOLE, NewSplit, Split
from dspex_ray.stats.assignment import bucket


class Choice(NamedTuple):
    version: int
    epoch: int
    propensity: float  #: the share of traffic the version had, 0 to 1
    bucket: int


def choose_version(
    split: Split, unit: str, now: datetime, unavailable: Set[int] = frozenset()
) -> Choice:
    """The version for `unit`. Sticky: it changes only when the weights move past its bucket.

    The newest version lies on the lowest buckets, so that a canary that grows keeps its units.
    An arm past its `valid_until`, or whose version is `unavailable`, gives its range to another,
    as `live_shares` says. Raises Unavailable when no arm is left.
    """
    shares = live_shares(split, now, unavailable)
    if not shares:
        raise Unavailable("no version of the split can be served now", retry_after_s=5)
    place = bucket(split.salt, unit)
    edge = 0
    for version, weight in shares:
        edge += weight
        if place < edge:
            return Choice(version, split.epoch, weight / WHOLE, place)
    raise AssertionError("shares sum to the whole")  # NewSplit refuses anything else


def live_shares(
    split: Split, now: datetime, unavailable: Set[int] = frozenset()
) -> list[tuple[int, int]]:
    """(version, basis points) of what runs now, newest version first; sums to 10000.

    The ranges of all others go to the newest live arm without a `valid_until`, and if there is
    none to the newest live arm. Empty when none is live.
    """
    arms = sorted(split.arms, key=lambda arm: -arm.version)
    live = [
        arm
        for arm in arms
        if arm.version not in unavailable and (arm.valid_until is None or arm.valid_until > now)
    ]
    lasting = [arm for arm in live if arm.valid_until is None]
    heir = next(iter(lasting or live), None)
    inherited = WHOLE - sum(arm.weight_bp for arm in live)
    return [(arm.version, arm.weight_bp + (inherited if arm is heir else 0)) for arm in live]


def growing(before: Split | None, new: NewSplit) -> list[int]:
    """The versions that get more traffic by `new` than they had."""
    held = {} if before is None else {arm.version: arm.weight_bp for arm in before.arms}
    return [arm.version for arm in new.arms if arm.weight_bp > held.get(arm.version, 0)]
