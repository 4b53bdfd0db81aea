"""The breaker against a model of it that is written the other way round: by its history."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dspex_ray.core.ids import ModelId
from dspex_ray.models.model import ErrorClass
from dspex_ray.routing.breaker import Breakers, Permit, Phase, Verdict, verdict_on
from dspex_ray.settings import RoutingSettings

SETTINGS = RoutingSettings(breaker_failures=3, breaker_open_s=10)
MODEL = ModelId(UUID(int=1))


class BreakerMachine(RuleBasedStateMachine):
    """The probe may only be out while half-open; what the closed breaker saw is a list."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.breakers = Breakers(SETTINGS)
        self.now = 0.0
        self.seen: list[Verdict] = []
        self.opened_at: float | None = None
        self.probe_out = False

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 10.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def enter(self) -> Permit | None:
        could = self.breakers.admits(MODEL, self.now)
        permit = self.breakers.enter(MODEL, self.now)
        assert could == (permit is not None)
        if self.opened_at is None:
            assert permit == Permit(MODEL, probe=False)
        elif self.now < self.opened_at + 10 or self.probe_out:
            assert permit is None
        else:
            assert permit == Permit(MODEL, probe=True)
            self.probe_out = True
        return permit

    @rule(permit=consumes(permits), verdict=st.sampled_from(list(Verdict)))
    def settle(self, permit: Permit | None, verdict: Verdict) -> None:
        if permit is None:
            return
        self.breakers.settle(permit, verdict, self.now)
        if permit.probe:
            self.probe_out = False
            if verdict is Verdict.SUCCESS:
                self.opened_at, self.seen = None, []
            elif verdict is Verdict.FAILURE:
                self.opened_at = self.now
        elif self.opened_at is None:
            self.seen = [v for v in [*self.seen, verdict] if v is not Verdict.NEUTRAL]
            if self.seen[-3:] == [Verdict.FAILURE] * 3:
                self.opened_at = self.now

    @rule()
    def fails_until_it_opens(self) -> None:
        while (permit := self.enter()) is not None:
            self.settle(permit, Verdict.FAILURE)

    @invariant()
    def phase(self) -> None:
        phase = self.breakers.phase(MODEL, self.now)
        if self.opened_at is None:
            assert phase is Phase.CLOSED
            assert self.breakers.closed_in(MODEL, self.now) == 0
        elif self.now < self.opened_at + 10:
            assert phase is Phase.OPEN
            assert self.breakers.closed_in(MODEL, self.now) == self.opened_at + 10 - self.now
        else:
            assert phase is Phase.HALF_OPEN


BreakerMachine.TestCase.settings = hypothesis_settings(max_examples=80, stateful_step_count=30)
TestBreaker = BreakerMachine.TestCase


def opened_and_cooled() -> tuple[Breakers, Permit]:
    """A breaker that opened at 0, and the permit of its probe at 10."""
    breakers = Breakers(SETTINGS)
    for _ in range(3):
        permit = breakers.enter(MODEL, 0.0)
        assert permit is not None
        breakers.settle(permit, Verdict.FAILURE, 0.0)
    assert breakers.enter(MODEL, 9.99) is None
    probe = breakers.enter(MODEL, 10.0)
    assert probe == Permit(MODEL, probe=True)
    assert breakers.enter(MODEL, 10.0) is None
    return breakers, probe


def test_a_probe_that_succeeds_closes_it() -> None:
    breakers, probe = opened_and_cooled()
    breakers.settle(probe, Verdict.SUCCESS, 11.0)
    assert breakers.phase(MODEL, 11.0) is Phase.CLOSED


def test_a_probe_that_fails_opens_it_for_the_same_cooldown() -> None:
    breakers, probe = opened_and_cooled()
    breakers.settle(probe, Verdict.FAILURE, 11.0)
    assert breakers.closed_in(MODEL, 11.0) == 10.0


def test_a_probe_that_shows_nothing_lets_another_follow() -> None:
    breakers, probe = opened_and_cooled()
    breakers.settle(probe, Verdict.NEUTRAL, 11.0)
    assert breakers.phase(MODEL, 11.0) is Phase.HALF_OPEN
    assert breakers.enter(MODEL, 11.0) == Permit(MODEL, probe=True)


@pytest.mark.parametrize("error_class", list(ErrorClass))
def test_only_what_speaks_of_the_providers_health_counts(error_class: ErrorClass) -> None:
    counts = {
        ErrorClass.TIMEOUT,
        ErrorClass.SERVER,
        ErrorClass.TRANSPORT,
        ErrorClass.MALFORMED,
    }
    expected = Verdict.FAILURE if error_class in counts else Verdict.NEUTRAL
    assert verdict_on(error_class) is expected


def test_an_answer_is_a_success() -> None:
    assert verdict_on(None) is Verdict.SUCCESS


def test_models_do_not_share_a_breaker() -> None:
    breakers = Breakers(SETTINGS)
    for _ in range(3):
        permit = breakers.enter(MODEL, 0.0)
        assert permit is not None
        breakers.settle(permit, Verdict.FAILURE, 0.0)
    assert breakers.enter(MODEL, 1.0) is None
    assert breakers.enter(ModelId(UUID(int=2)), 1.0) is not None
