"""Which version serves a unit: properties of the pure function, over splits of any shape."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.errors import Unavailable
from dspex_ray.core.ids import DEFAULT_PROJECT, ProgramId
from dspex_ray.serving.model import WHOLE, Arm, NewSplit, Split
from dspex_ray.serving.split import choose_version, growing, live_shares

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNITS = [f"unit-{number}" for number in range(4_000)]


def split_of(arms: tuple[Arm, ...], salt: str = "salt") -> Split:
    NewSplit(arms=arms)  # only what could be stored
    return Split(
        program_id=ProgramId(UUID(int=1)),
        project_id=DEFAULT_PROJECT,
        salt=salt,
        epoch=7,
        arms=arms,
        updated_at=NOW,
    )


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Arms in any order, some to end, some ended; one at least without an end."""
    count = draw(st.integers(1, 6))
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=count - 1, max_size=count - 1)))
    weights = [high - low for low, high in zip([0, *cuts], [*cuts, WHOLE], strict=True)]
    numbers = draw(st.permutations(range(1, count + 1)))
    ends = st.none() | st.integers(-100, 100).map(lambda s: NOW + timedelta(seconds=s))
    lasting = draw(st.integers(0, count - 1))
    arms = tuple(
        Arm(version=number, weight_bp=weight, valid_until=None if i == lasting else draw(ends))
        for i, (number, weight) in enumerate(zip(numbers, weights, strict=True))
    )
    return split_of(arms, draw(st.text(max_size=20)))


def canary(weight: int, valid_until: datetime | None = None) -> Split:
    return split_of(
        (
            Arm(version=1, weight_bp=WHOLE - weight),
            Arm(version=2, weight_bp=weight, valid_until=valid_until),
        )
    )


def chosen(split: Split, now: datetime = NOW) -> dict[str, int]:
    return {unit: choose_version(split, unit, now).version for unit in UNITS}


@given(splits())
def test_live_shares_are_the_whole(split: Split) -> None:
    shares = live_shares(split, NOW)
    assert sum(weight for _, weight in shares) == WHOLE
    assert [version for version, _ in shares] == sorted((v for v, _ in shares), reverse=True)


@given(splits(), st.text(max_size=50))
def test_a_choice_is_sticky_and_says_its_share(split: Split, unit: str) -> None:
    choice = choose_version(split, unit, NOW)
    assert choice == choose_version(split.model_copy(update={"arms": split.arms[::-1]}), unit, NOW)
    assert choice.propensity == dict(live_shares(split, NOW))[choice.version] / WHOLE
    assert choice.propensity > 0
    assert choice.epoch == 7
    assert 0 <= choice.bucket < WHOLE


@given(splits(), st.text(max_size=50))
def test_an_arm_that_has_ended_is_never_chosen(split: Split, unit: str) -> None:
    ended = {arm.version for arm in split.arms if arm.valid_until and arm.valid_until <= NOW}
    assert choose_version(split, unit, NOW).version not in ended


@settings(max_examples=25)
@given(splits())
def test_traffic_is_as_the_weights_say(split: Split) -> None:
    counted = Counter(chosen(split).values())
    for version, weight in live_shares(split, NOW):
        expected = weight / WHOLE
        # Five standard deviations of a binomial share, and a bucket's width.
        tolerance = 5 * (expected * (1 - expected) / len(UNITS)) ** 0.5 + 1 / WHOLE
        assert abs(counted[version] / len(UNITS) - expected) <= tolerance


@settings(max_examples=25)
@given(st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_a_growing_canary_keeps_its_units(one: int, other: int) -> None:
    small, large = sorted((one, other))
    before, after = chosen(canary(small)), chosen(canary(large))
    assert all(after[unit] == 2 for unit in UNITS if before[unit] == 2)


@settings(max_examples=25)
@given(st.integers(50, WHOLE - 1), st.integers(0, 100))
def test_a_canary_that_nobody_renews_gives_its_range_back(weight: int, late_s: int) -> None:
    end = NOW + timedelta(seconds=10)
    split = canary(weight, end)
    before = chosen(split, end - timedelta(microseconds=1))
    assert 2 in before.values()
    assert set(chosen(split, end + timedelta(seconds=late_s)).values()) == {1}
    renewed = chosen(canary(weight, end + timedelta(seconds=20)), end)
    assert renewed == before


@given(splits(), st.frozensets(st.integers(1, 6)), st.text(max_size=50))
def test_a_version_that_cannot_be_served_gives_its_range_away(
    split: Split, unavailable: frozenset[int], unit: str
) -> None:
    shares = live_shares(split, NOW, unavailable)
    living = {
        arm.version
        for arm in split.arms
        if arm.version not in unavailable and (arm.valid_until is None or arm.valid_until > NOW)
    }
    assert {version for version, _ in shares} == living
    if not living:
        with pytest.raises(Unavailable):
            choose_version(split, unit, NOW, unavailable)
        return
    assert sum(weight for _, weight in shares) == WHOLE
    whole = dict(live_shares(split, NOW))
    grown = [version for version, weight in shares if weight > whole[version]]
    assert len(grown) <= 1  # one heir takes all of it
    choice = choose_version(split, unit, NOW, unavailable)
    assert choice.version in living
    assert choice.propensity == dict(shares)[choice.version] / WHOLE


def test_the_newest_that_lasts_inherits_and_if_none_is_left_the_newest() -> None:
    end = NOW + timedelta(seconds=10)
    arms = (
        Arm(version=1, weight_bp=5_000),
        Arm(version=2, weight_bp=3_000),
        Arm(version=3, weight_bp=2_000, valid_until=end),
    )
    split = split_of(arms)
    assert live_shares(split, NOW, {1}) == [(3, 2_000), (2, 8_000)]
    assert live_shares(split, NOW, {2}) == [(3, 2_000), (1, 8_000)]
    assert live_shares(split, NOW, {1, 2}) == [(3, WHOLE)]
    assert live_shares(split, end, {2}) == [(1, WHOLE)]
    assert live_shares(split, NOW, {1, 2, 3}) == []


def test_only_what_grows_is_said_to_grow() -> None:
    new = NewSplit(arms=(Arm(version=1, weight_bp=4_000), Arm(version=2, weight_bp=6_000)))
    assert growing(None, new) == [1, 2]
    assert growing(canary(5_000), new) == [2]
    assert growing(canary(6_000), new) == []


def test_another_salt_deals_anew() -> None:
    arms = canary(5_000).arms
    one, other = chosen(split_of(arms, "a")), chosen(split_of(arms, "b"))
    moved = sum(one[unit] != other[unit] for unit in UNITS) / len(UNITS)
    assert 0.45 < moved < 0.55
