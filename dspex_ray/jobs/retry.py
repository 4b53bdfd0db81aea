"""Which failures of a job are worth another attempt: those of the infrastructure, never ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import procrastinate
import psycopg
import sqlalchemy.exc
from procrastinate import exceptions, utils
from procrastinate.jobs import Job

from dspex_ray.core.errors import DspexRayError, Unavailable

_INFRASTRUCTURE: tuple[type[BaseException], ...] = (
    OSError,  # sockets, disks and TimeoutError
    psycopg.OperationalError,
    psycopg.InterfaceError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,  # no free connection in the pool
    exceptions.ConnectorException,
    exceptions.JobAborted,  # the worker was told to stop before the job was done
)


def is_infrastructure(error: BaseException) -> bool:
    """Whether the same job may succeed later without anybody changing anything."""
    if isinstance(error, DspexRayError):
        return isinstance(error, Unavailable)
    return isinstance(error, _INFRASTRUCTURE)


@dataclass(frozen=True)
class InfrastructureRetry(procrastinate.BaseRetryStrategy):
    """Up to `attempts` runs in all, `first_wait_s` after the first, twice as long after each next.

    `max_wait_s` bounds one wait. A business failure (any other DspexRayError) is final.
    """

    attempts: int = 6
    first_wait_s: float = 2.0
    max_wait_s: float = 300.0

    def wait_s(self, done: int) -> float:
        """Seconds to wait after `done` earlier attempts (0 when the first has just failed)."""
        return min(self.max_wait_s, self.first_wait_s * 2.0 ** min(done, 32))

    def get_retry_decision(
        self, *, exception: BaseException, job: Job
    ) -> procrastinate.RetryDecision | None:
        if not is_infrastructure(exception) or job.attempts + 1 >= self.attempts:
            return None
        wait = timedelta(seconds=self.wait_s(job.attempts))
        return procrastinate.RetryDecision(retry_at=utils.utcnow() + wait)


INFRASTRUCTURE = InfrastructureRetry()
