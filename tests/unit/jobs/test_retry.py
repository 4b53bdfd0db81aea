"""Infrastructure failures are retried a bounded number of times; business failures never."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import procrastinate
import psycopg
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st
from procrastinate import utils
from procrastinate.jobs import Job

from dspex_ray.core.errors import (
    DeadlineExceeded,
    Invalid,
    NotFound,
    ProviderDown,
    RateLimited,
    TransitionRefused,
    Unavailable,
)
from dspex_ray.jobs.queues import Queue
from dspex_ray.jobs.retry import INFRASTRUCTURE, InfrastructureRetry, is_infrastructure

RETRIED = [
    OSError("disk"),
    ConnectionResetError(),
    TimeoutError(),
    psycopg.OperationalError("gone"),
    psycopg.errors.SerializationFailure(),
    sqlalchemy.exc.OperationalError("select 1", {}, Exception("gone")),
    sqlalchemy.exc.TimeoutError(),
    procrastinate.exceptions.ConnectorException(),
    procrastinate.exceptions.JobAborted(),
    Unavailable("down"),
    ProviderDown("all down"),
]
FINAL = [
    Invalid("no"),
    NotFound("no"),
    TransitionRefused("no"),
    RateLimited("slow down"),
    DeadlineExceeded("late"),
    ValueError("a bug"),
    KeyError("a bug"),
    sqlalchemy.exc.IntegrityError("insert", {}, Exception("twice")),
    asyncio.CancelledError(),
]


def job(attempts: int) -> Job:
    return Job(
        id=1, queue=Queue.HEALTH, lock=None, queueing_lock=None, task_name="t", attempts=attempts
    )


@pytest.mark.parametrize("error", RETRIED, ids=repr)
def test_infrastructure_failures_are_retried(error: BaseException) -> None:
    assert is_infrastructure(error)
    assert INFRASTRUCTURE.get_retry_decision(exception=error, job=job(0)) is not None


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_business_failures_and_bugs_are_final(error: BaseException) -> None:
    assert not is_infrastructure(error)
    assert INFRASTRUCTURE.get_retry_decision(exception=error, job=job(0)) is None


@given(attempts=st.integers(1, 12))
def test_a_job_runs_at_most_the_allowed_number_of_times(attempts: int) -> None:
    retry = InfrastructureRetry(attempts=attempts)
    decided = [
        retry.get_retry_decision(exception=OSError(), job=job(done)) is not None
        for done in range(attempts + 3)
    ]
    assert decided == [done < attempts - 1 for done in range(attempts + 3)]


@given(done=st.integers(0, 10_000))
def test_waits_double_up_to_the_bound(done: int) -> None:
    retry = InfrastructureRetry(first_wait_s=2, max_wait_s=300)
    assert retry.wait_s(0) == 2
    assert retry.wait_s(done + 1) == min(300, 2 * retry.wait_s(done))


def test_the_next_run_is_scheduled_after_the_wait() -> None:
    before = utils.utcnow()
    decision = INFRASTRUCTURE.get_retry_decision(exception=OSError(), job=job(3))
    assert decision is not None
    assert decision.retry_at is not None
    waited = decision.retry_at - before
    assert timedelta(seconds=16) <= waited < timedelta(seconds=20)
