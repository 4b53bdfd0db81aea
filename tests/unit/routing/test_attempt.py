"""The attempt machine, driven by hand and by random scripts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from dspy import lm15
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import DeadlineExceeded, Invalid, ProviderDown, RateLimited
from dspex_ray.models.model import ErrorClass, Price, Provider
from dspex_ray.routing.attempt import (
    CANCELLED,
    PATIENCE_S,
    RETRYABLE,
    Answered,
    Broke,
    Call,
    CallResult,
    Effect,
    Outcome,
    Relay,
    Started,
    Wait,
    Waited,
    attempts,
    backoff_s,
)
from dspex_ray.routing.breaker import Breakers, Phase, Verdict
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.model import Attempt
from dspex_ray.routing.rules import Candidate
from dspex_ray.settings import RoutingSettings
from dspex_ray.testing.fake_clock import FakeClock
from tests.unit.routing.parts import candidate, failure, response

DEADLINE_S = 60.0


@dataclass
class Play:
    """Runs a machine over scripted outcomes: how long each call takes, and what came of it."""

    chain: list[Candidate]
    script: list[tuple[float, Outcome]]
    settings: RoutingSettings = field(default_factory=RoutingSettings)
    deadline_s: float = DEADLINE_S
    clock: FakeClock = field(default_factory=FakeClock)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breakers = Breakers(self.settings)

    def run(self) -> CallResult:
        machine = attempts(
            self.chain,
            settings=self.settings,
            breakers=self.breakers,
            limits=self.limits,
            clock=self.clock,
            rng=random.Random(self.seed),
            deadline=self.clock.monotonic() + self.deadline_s,
        )
        outcome: Outcome | None = None
        while True:
            try:
                effect = next(machine) if outcome is None else machine.send(outcome)
            except StopIteration as stop:
                result: CallResult = stop.value
                return result
            self.effects.append(effect)
            outcome = self._perform(effect)

    def _perform(self, effect: Effect) -> Outcome:
        if isinstance(effect, Wait):
            self.clock.advance(effect.seconds)
            return Waited()
        seconds, outcome = self.script.pop(0)
        if seconds > effect.timeout_s:
            self.clock.advance(effect.timeout_s)
            return Broke(failure("timeout"))
        self.clock.advance(seconds)
        return outcome

    @property
    def calls(self) -> list[tuple[str, int]]:
        return [(e.candidate.model.name, e.number) for e in self.effects if isinstance(e, Call)]

    @property
    def waits(self) -> list[float]:
        return [e.seconds for e in self.effects if isinstance(e, Wait)]


def broke(error_class: str, **fields: object) -> tuple[float, Outcome]:
    return 0.0, Broke(failure(error_class, **fields))


ANSWER = response("yes")
OK: tuple[float, Outcome] = (0.5, Answered(ANSWER))


def brief(records: tuple[Attempt, ...]) -> list[tuple[str, int, str, str | None]]:
    return [(r.model, r.number, r.outcome, r.error_class) for r in records]


def test_an_answer_is_recorded_with_its_cost() -> None:
    price = Price(prompt_usd_per_token=Decimal("0.001"), completion_usd_per_token=Decimal("0.002"))
    one = candidate("a", of={"price": price, "price_version": 4})
    play = Play([one], [OK])
    started_at = play.clock.now()
    result = play.run()
    assert result == CallResult(
        attempts=(
            Attempt(
                model_id=one.model.id,
                model="a",
                assignment_id=one.assignment.id,
                number=1,
                outcome="ok",
                latency_ms=500.0,
                prompt_tokens=10,
                completion_tokens=2,
                cost_usd=Decimal("0.014"),
                cost_source="measured",
                price_version=4,
                started_at=started_at,
            ),
        ),
        answered_by=one,
        response=ANSWER,
    )


def test_unknown_usage_or_price_is_not_zero() -> None:
    unpriced = Play([candidate("a")], [OK]).run().attempts[0]
    silent = (0.0, Answered(response("yes", lm15.Usage())))
    price = Price(prompt_usd_per_token=Decimal(1), completion_usd_per_token=Decimal(1))
    uncounted = Play([candidate("a", of={"price": price})], [silent]).run().attempts[0]
    for record in (unpriced, uncounted):
        assert (record.cost_usd, record.cost_source) == (None, "unknown")


def test_anthropic_counts_cached_tokens_beside_the_input() -> None:
    usage = lm15.Usage(input_tokens=10, output_tokens=1, cache_read_tokens=5, cache_write_tokens=2)
    answer = (0.0, Answered(response("yes", usage)))
    anthropic = candidate("a", of={"provider": Provider.ANTHROPIC})
    assert Play([anthropic], [answer]).run().attempts[0].prompt_tokens == 17
    assert Play([candidate("a")], [answer]).run().attempts[0].prompt_tokens == 10


def test_retries_then_falls_back() -> None:
    settings = RoutingSettings(retries=2)
    script = [broke("server"), broke("transport"), broke("malformed"), OK]
    play = Play([candidate("a"), candidate("b", "fallback")], script, settings)
    result = play.run()
    assert brief(result.attempts) == [
        ("a", 1, "failed", "server"),
        ("a", 2, "failed", "transport"),
        ("a", 3, "failed", "malformed"),
        ("b", 1, "ok", None),
    ]
    assert result.answered_by == play.chain[1]
    assert len(play.waits) == 2
    assert 0.125 <= play.waits[0] <= 0.25
    assert 0.25 <= play.waits[1] <= 0.5


@pytest.mark.parametrize("error_class", sorted(set(ErrorClass) - RETRYABLE))
def test_what_is_not_retried_goes_on_at_once_unless_the_caller_left(error_class: str) -> None:
    play = Play([candidate("a"), candidate("b", "fallback")], [broke(error_class), OK])
    result = play.run()
    assert play.waits == []
    if error_class == ErrorClass.CANCELLED:
        assert brief(result.attempts) == [("a", 1, "cancelled", "cancelled")]
        assert result.cancelled
        assert result.error is None
    else:
        assert play.calls == [("a", 1), ("b", 1)]
        assert result.answered_by == play.chain[1]


class TestRetryAfter:
    def test_is_waited_for(self) -> None:
        play = Play([candidate("a")], [broke("rate_limit", retry_after_s=2.0), OK])
        assert play.run().answered_by == play.chain[0]
        assert 2.0 < play.waits[0] <= 2.251

    def test_a_longer_backoff_wins(self) -> None:
        settings = RoutingSettings(retry_base_ms=8000, retry_max_ms=8000)
        play = Play([candidate("a")], [broke("rate_limit", retry_after_s=0.001), OK], settings)
        play.run()
        assert 4.0 <= play.waits[0] <= 8.0

    def test_too_long_goes_on_when_another_model_would_take_the_call(self) -> None:
        long = broke("rate_limit", retry_after_s=PATIENCE_S)
        play = Play([candidate("a"), candidate("b", "fallback")], [long, OK])
        assert play.run().answered_by == play.chain[1]
        assert play.waits == []

    def test_is_waited_for_when_the_other_model_would_not(self) -> None:
        long = broke("rate_limit", retry_after_s=PATIENCE_S)
        play = Play([candidate("a"), candidate("b", "fallback")], [long, OK])
        play.limits.hold_off(play.chain[1].model.id, 30, play.clock.monotonic())
        assert play.run().answered_by == play.chain[0]
        assert play.waits[0] > PATIENCE_S

    def test_beyond_the_deadline_is_not_waited_for(self) -> None:
        play = Play([candidate("a")], [broke("rate_limit", retry_after_s=60.0)])
        result = play.run()
        assert play.waits == []
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == 60.0

    def test_holds_off_the_calls_that_come_after(self) -> None:
        play = Play([candidate("a")], [broke("server", retry_after_s=100.0), OK])
        play.run()
        result = play.run()
        assert brief(result.attempts) == [("a", 1, "skipped", "rate_limit")]
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == 100.0
        assert play.script == [OK]


class TestSkips:
    def test_an_open_breaker(self) -> None:
        settings = RoutingSettings(breaker_failures=1, breaker_open_s=15)
        play = Play([candidate("a"), candidate("b", "fallback")], [OK], settings)
        permit = play.breakers.enter(play.chain[0].model.id, play.clock.monotonic())
        assert permit is not None
        play.breakers.settle(permit, Verdict.FAILURE, play.clock.monotonic())
        result = play.run()
        assert result.attempts[0] == Attempt(
            model_id=play.chain[0].model.id,
            model="a",
            assignment_id=play.chain[0].assignment.id,
            number=1,
            outcome="skipped",
            message="circuit breaker is open",
            latency_ms=0.0,
            started_at=FakeClock().now(),
            retry_after_s=15.0,
        )
        assert result.answered_by == play.chain[1]

    def test_a_breaker_that_opens_midway_ends_the_retries(self) -> None:
        play = Play([candidate("a")], [broke("server")] * 2, RoutingSettings(breaker_failures=2))
        result = play.run()
        assert brief(result.attempts) == [
            ("a", 1, "failed", "server"),
            ("a", 2, "failed", "server"),
        ]
        assert len(play.waits) == 1
        again = play.run()
        assert brief(again.attempts) == [("a", 1, "skipped", None)]
        assert isinstance(again.error, ProviderDown)
        assert again.error.retry_after_s == 15.0

    def test_a_reached_limit(self) -> None:
        limited = candidate("a", of={"requests_per_minute": 1})
        play = Play([limited, candidate("b", "fallback")], [OK, OK])
        assert play.run().answered_by == limited
        result = play.run()
        assert brief(result.attempts) == [("a", 1, "skipped", "rate_limit"), ("b", 1, "ok", None)]
        assert result.attempts[0].message == "requests_per_minute reached"

    def test_a_limit_does_not_use_up_the_probe(self) -> None:
        settings = RoutingSettings(retries=0, breaker_failures=1, breaker_open_s=1)
        play = Play([candidate("a")], [broke("server", retry_after_s=50.0)], settings)
        play.run()
        play.clock.advance(2)
        play.run()  # skipped: held off, though the breaker would have let a probe through
        assert play.breakers.admits(play.chain[0].model.id, play.clock.monotonic())


class TestBreakerVerdicts:
    settings = RoutingSettings(retries=0, breaker_failures=1)

    def phase_after(self, play: Play) -> Phase:
        play.run()
        return play.breakers.phase(play.chain[0].model.id, play.clock.monotonic())

    def test_a_timeout_counts(self) -> None:
        play = Play([candidate("a")], [(61.0, OK[1])], self.settings, deadline_s=100)
        assert self.phase_after(play) is Phase.OPEN

    def test_a_timeout_that_a_short_deadline_made_does_not(self) -> None:
        play = Play([candidate("a")], [(61.0, OK[1])], self.settings, deadline_s=20)
        assert self.phase_after(play) is Phase.CLOSED

    def test_a_refused_key_does_not(self) -> None:
        assert self.phase_after(Play([candidate("a")], [broke("auth")], self.settings)) == "closed"

    def test_an_abandoned_machine_frees_its_probe(self) -> None:
        play = Play([candidate("a")], [broke("server")], self.settings)
        play.run()
        play.clock.advance(20)
        machine = attempts(
            play.chain,
            settings=play.settings,
            breakers=play.breakers,
            limits=play.limits,
            clock=play.clock,
            rng=random.Random(0),
            deadline=play.clock.monotonic() + 1,
        )
        next(machine)
        assert not play.breakers.admits(play.chain[0].model.id, play.clock.monotonic())
        machine.close()
        assert play.breakers.admits(play.chain[0].model.id, play.clock.monotonic())


class TestStreams:
    def test_first_content_and_whole_answer_are_measured(self) -> None:
        play = Play([candidate("a")], [(0.2, Started()), (1.0, OK[1])])
        result = play.run()
        assert result.attempts[0].first_token_ms == pytest.approx(200)
        assert result.attempts[0].latency_ms == pytest.approx(1200)
        relay = play.effects[1]
        assert isinstance(relay, Relay)
        assert relay.timeout_s == pytest.approx(59.8)
        assert relay.idle_s == 60.0

    def test_after_content_nothing_is_tried_again(self) -> None:
        script = [(0.2, Started()), broke("transport"), OK]
        play = Play([candidate("a"), candidate("b", "fallback")], script)
        result = play.run()
        assert brief(result.attempts) == [("a", 1, "failed", "transport")]
        assert isinstance(result.error, ProviderDown)
        assert result.error.message == (
            "the answer broke off after its first content: a: transport (it was transport)"
        )

    def test_the_deadline_holds_for_streams(self) -> None:
        play = Play([candidate("a")], [(0.2, Started()), (500.0, OK[1])])
        assert isinstance(play.run().error, DeadlineExceeded)
        assert play.clock.monotonic() == pytest.approx(FakeClock().monotonic() + DEADLINE_S)

    def test_before_content_it_falls_back_like_any_call(self) -> None:
        script = [broke("auth"), (0.1, Started()), OK]
        play = Play([candidate("a"), candidate("b", "fallback")], script)
        assert play.run().answered_by == play.chain[1]


class TestErrors:
    def error(
        self, *script: tuple[float, Outcome], chain: str = "ab", deadline_s: float = DEADLINE_S
    ) -> object:
        settings = RoutingSettings(retries=0)
        play = Play([candidate(name) for name in chain], list(script), settings, deadline_s)
        return play.run().error

    def test_all_failed(self) -> None:
        error = self.error(broke("timeout"), broke("auth", status=401))
        assert isinstance(error, ProviderDown)
        assert error.message == (
            "all 2 models failed: a: timeout (it was timeout); b: 401 auth (it was auth)"
        )
        assert error.details == {
            "attempts": [
                {"model": "a", "number": 1, "outcome": "failed", "error_class": "timeout"},
                {
                    "model": "b",
                    "number": 1,
                    "outcome": "failed",
                    "error_class": "auth",
                    "status": 401,
                },
            ]
        }

    def test_nothing_but_limits(self) -> None:
        error = self.error(
            broke("rate_limit", retry_after_s=90.0), broke("rate_limit", retry_after_s=70.0)
        )
        assert isinstance(error, RateLimited)
        assert error.retry_after_s == 70.0

    def test_a_limit_and_a_failure_is_not_a_rate_limit(self) -> None:
        assert isinstance(self.error(broke("rate_limit"), broke("server")), ProviderDown)

    def test_a_request_that_every_model_refuses(self) -> None:
        error = self.error(broke("invalid_request"), broke("context_length"))
        assert isinstance(error, Invalid)
        assert error.rule == "accepted by a model"

    def test_a_request_too_long_for_every_model(self) -> None:
        error = self.error(broke("context_length"), chain="a")
        assert isinstance(error, Invalid)
        assert error.rule == "context_length"

    def test_a_deadline_that_ran_out(self) -> None:
        error = self.error((100.0, OK[1]), deadline_s=5.0)
        assert isinstance(error, DeadlineExceeded)
        assert error.message == (
            "the deadline passed before a model answered: a: timeout (it was timeout)"
        )

    def test_a_deadline_whose_timer_fired_early(self) -> None:
        timed_out = broke("timeout")[1]
        error = self.error((4.9985, timed_out), (0.0005, timed_out), deadline_s=5.0)
        assert isinstance(error, DeadlineExceeded)
        assert len(error.details["attempts"]) == 1  # in what was left no second model is asked

    def test_a_stream_whose_deadline_fired_early(self) -> None:
        error = self.error((0.2, Started()), (4.7985, broke("timeout")[1]), deadline_s=5.0)
        assert isinstance(error, DeadlineExceeded)

    def test_a_deadline_that_had_passed(self) -> None:
        error = self.error(deadline_s=-1.0)
        assert isinstance(error, DeadlineExceeded)


def test_a_caller_who_leaves_during_a_wait() -> None:
    play = Play([candidate("a")], [])
    machine = attempts(
        play.chain,
        settings=play.settings,
        breakers=play.breakers,
        limits=play.limits,
        clock=play.clock,
        rng=random.Random(0),
        deadline=play.clock.monotonic() + 10,
    )
    next(machine)
    assert isinstance(machine.send(Broke(failure("server"))), Wait)
    with pytest.raises(StopIteration) as stopped:
        machine.send(CANCELLED)
    assert stopped.value.value.cancelled
    assert brief(stopped.value.value.attempts) == [("a", 1, "failed", "server")]


@given(st.integers(1, 60), st.integers(0, 9))
def test_backoff_grows_and_is_bounded(number: int, seed: int) -> None:
    settings = RoutingSettings()
    full = min(0.25 * 2 ** (number - 1), 8.0)
    assert full / 2 <= backoff_s(number, settings, random.Random(seed)) <= full


outcome_scripts = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 5.0, 40.0]),
        st.one_of(
            st.just(OK[1]),
            st.just(Started()),
            st.builds(
                lambda kind, retry: Broke(failure(kind.value, retry_after_s=retry)),
                st.sampled_from(list(ErrorClass)),
                st.sampled_from([None, None, 0.5, 10.0, 1000.0]),
            ),
        ),
    ),
    min_size=40,
    max_size=40,
)


class Careful(Play):
    """Never answers what an effect does not allow: content twice, or a start after a start."""

    def _perform(self, effect: Effect) -> Outcome:
        outcome = super()._perform(effect)
        if isinstance(effect, Relay) and isinstance(outcome, Started):
            return Broke(failure("transport"))
        return outcome


@given(
    outcome_scripts,
    st.integers(1, 4),
    st.integers(0, 3),
    st.sampled_from([0.1, 3.0, 60.0, 600.0]),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_properties(
    script: list[tuple[float, Outcome]],
    models: int,
    retries: int,
    deadline_s: float,
    breaker_failures: int,
    seed: int,
) -> None:
    settings = RoutingSettings(retries=retries, breaker_failures=breaker_failures)
    chain = [candidate(name) for name in "abcd"[:models]]
    play = Careful(chain, script, settings, deadline_s, seed=seed)
    began = play.clock.monotonic()
    result = play.run()
    calls = [effect for effect in play.effects if isinstance(effect, Call)]

    # Exactly one ending, and it is what the last record says.
    endings = [result.answered_by is not None, result.error is not None, result.cancelled]
    assert endings.count(True) == 1
    # At most 1 + retries attempts a model, numbered, and the chain's order is kept.
    assert [(c.candidate.model.name, c.number) for c in calls] == sorted(
        {(c.candidate.model.name, c.number) for c in calls}
    )
    assert all(call.number <= 1 + retries for call in calls)
    # Every call is on record, in order.
    recorded = [(r.model, r.number) for r in result.attempts if r.outcome != "skipped"]
    assert recorded == play.calls
    # Nothing is called after streamed content.
    relays = [i for i, effect in enumerate(play.effects) if isinstance(effect, Relay)]
    assert relays in ([], [len(play.effects) - 1])
    # The deadline holds.
    assert play.clock.monotonic() <= began + deadline_s + 1e-6
    assert all(0 < call.timeout_s <= call.candidate.model.timeout_s for call in calls)
    # A provider's wish to be left alone is respected.
    held_until: dict[str, float] = {}
    for record in result.attempts:
        at = (record.started_at - FakeClock().now()).total_seconds()
        if record.outcome in ("ok", "failed", "cancelled"):
            assert at >= held_until.get(record.model, 0.0) - 1e-3
            wish = record.retry_after_s or 0.0
            held_until[record.model] = at + record.latency_ms / 1000 + wish
