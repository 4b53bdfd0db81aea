"""Identifiers: UUIDv7, so that ids sort by time and a record's day derives from its id."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import NewType
from uuid import UUID

from dspex_ray.core.clock import Clock, SystemClock

ProjectId = NewType("ProjectId", UUID)
ModelId = NewType("ModelId", UUID)
AssignmentId = NewType("AssignmentId", UUID)
ProgramId = NewType("ProgramId", UUID)
VersionId = NewType("VersionId", UUID)
ExecutionId = NewType("ExecutionId", UUID)
KeyId = NewType("KeyId", UUID)
DatasetId = NewType("DatasetId", UUID)
DatasetVersionId = NewType("DatasetVersionId", UUID)
EvaluationId = NewType("EvaluationId", UUID)
OptimizationId = NewType("OptimizationId", UUID)

NewId = Callable[[], UUID]

# Ids are unique, not secret: a generator that the system seeds, instead of a system call for each.
_random = random.Random()  # noqa: S311 - see above
os.register_at_fork(after_in_child=_random.seed)
random_bits: Callable[[int], int] = _random.getrandbits

# The one project of this release. A constant, so that a fresh database and its snapshot agree.
DEFAULT_PROJECT = ProjectId(UUID("00000000-0000-7000-8000-000000000001"))


def uuid7(unix_ms: int, random_80: int) -> UUID:
    """The UUIDv7 of RFC 9562 section 5.7: 48 bits of `unix_ms`, version, 74 bits of randomness."""
    rand_a = (random_80 >> 62) & 0xFFF
    rand_b = random_80 & ((1 << 62) - 1)
    value = (unix_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    return UUID(int=value)


def id_source(clock: Clock | None = None, bits: Callable[[int], int] = random_bits) -> NewId:
    """A function that makes ids from this clock and this randomness."""
    source = clock or SystemClock()
    return lambda: uuid7(int(source.now().timestamp() * 1000), bits(80))


new_id: NewId = id_source()


def created_at(identifier: UUID) -> datetime:
    """When a UUIDv7 was made (millisecond resolution, UTC)."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def day_of(identifier: UUID) -> date:
    """The UTC day of a UUIDv7: the partition that its record belongs to."""
    return created_at(identifier).date()
