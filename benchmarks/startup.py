"""Seconds of `dspex up` to ready, and what an instance takes when nobody asks anything."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress

import psutil

from benchmarks import roles
from benchmarks.figures import Row, median
from benchmarks.instance import Instance
from benchmarks.rounds import Effort

_REST_S = 10.0


def measure(effort: Effort) -> list[Row]:
    """Each start has a home of its own; it is ended and started once more on its data."""
    fresh, again = [], []
    at_rest: list[Row] = []
    for _ in range(effort.repeats):
        with Instance() as instance:
            fresh.append(instance.start_s)
            instance.down()
            again.append(instance.up())
            if not at_rest:
                time.sleep(_REST_S)
                at_rest = [*_memory(instance), _busy(instance)]
    return [
        Row(name="startup.fresh", value=round(median(fresh), 1), unit="s"),
        Row(name="startup.again", value=round(median(again), 1), unit="s"),
        *at_rest,
    ]


def _memory(instance: Instance) -> list[Row]:
    """MB by role: processes of one role together, and of all together (without RSS, which would
    count shared pages again and again)."""
    found: defaultdict[str, list[roles.Memory]] = defaultdict(list)
    for member in roles.members(instance):
        with suppress(psutil.NoSuchProcess):
            found[member.role].append(roles.memory_of(member.process))
    rows = []
    for role, parts in sorted(found.items(), key=lambda item: -sum(part.pss for part in item[1])):
        rows += [
            _row(role, "uss", sum(part.uss for part in parts)),
            _row(role, "pss", sum(part.pss for part in parts)),
            _row(role, "rss", sum(part.rss for part in parts)),
        ]
    everything = [part for parts in found.values() for part in parts]
    return [
        *rows,
        _row("all together", "uss", sum(part.uss for part in everything)),
        _row("all together", "pss", sum(part.pss for part in everything)),
    ]


def _busy(instance: Instance) -> Row:
    """What all processes together compute when nobody asks: servers beside it bear that too."""
    before = cpu_s(instance)
    time.sleep(_REST_S)
    share = (cpu_s(instance) - before) / _REST_S * 100
    return Row(name="startup.cpu_at_rest", value=round(share, 1), unit="% of a core")


def cpu_s(instance: Instance) -> float:
    """What all its processes together have computed; one that ends takes its part away."""
    spent = 0.0
    for member in roles.members(instance):
        with suppress(psutil.NoSuchProcess):
            times = member.process.cpu_times()
            spent += times.user + times.system
    return spent


def _row(role: str, measure: str, value: float) -> Row:
    return Row(name=f"memory.{role}.{measure}", value=round(value, 1), unit="MB")
