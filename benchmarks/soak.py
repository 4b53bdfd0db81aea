"""A steady rate for minutes, and what memory does meanwhile.

Usage: python -m benchmarks.soak [--minutes 10] [--warm-up 8] [--rate 200] [--write]

Resident memory of every process of an instance is read every five seconds. The slope is of least
squares after a warm-up at the same rate: for eight minutes Serve's replicas grow by 3 MB, also idle
ones. Its 95 % interval takes the readings' noise for independent, which memory's is not: a slope
next to nothing may well lie outside of it. --write puts the table into RESULTS.md.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
import psutil
from scipy import stats

from benchmarks import roles, tables
from benchmarks.instance import Instance
from benchmarks.load import Load, Pace, measure
from benchmarks.peers import platform
from benchmarks.run import FOLDER
from benchmarks.upstream import Upstream

_EVERY_S: Final = 5.0
_CONNECTIONS: Final = 16


class Asked(NamedTuple):
    """Minutes, and requests a second."""

    minutes: float
    warm_up: float
    rate: float


class Slope(NamedTuple):
    """In MB an hour, with the half width of its 95 % interval; MB at first and at last."""

    mb_per_hour: float
    within: float
    first_mb: float
    last_mb: float

    def __str__(self) -> str:
        return f"{self.mb_per_hour:+.1f} ± {self.within:.1f}"


class Reading(NamedTuple):
    """Seconds since the soak began; MB resident, and of those the anonymous ones."""

    at_s: float
    resident_mb: float
    anonymous_mb: float


class Sampler:
    """Reads the processes that an instance has at `start`, in a thread, until `stop`."""

    def __init__(self, instance: Instance) -> None:
        self.found: list[tuple[roles.Member, list[Reading]]] = [
            (member, []) for member in roles.members(instance)
        ]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(_EVERY_S):
            now = time.monotonic() - started
            for member, readings in self.found:
                with suppress(psutil.NoSuchProcess):
                    read = member.process.memory_info()
                    readings.append(Reading(now, read.rss / 1e6, (read.rss - read.shared) / 1e6))


def slope(readings: Sequence[tuple[float, float]]) -> Slope | None:
    """Of (seconds, MB); None of fewer than three, which tell no interval."""
    if len(readings) < 3:
        return None
    seconds, megabytes = np.array(readings).T
    if np.ptp(megabytes) == 0:
        return Slope(0.0, 0.0, readings[0][1], readings[-1][1])
    fit = stats.linregress(seconds / 3600, megabytes)
    within = stats.t.ppf(0.975, len(readings) - 2) * fit.stderr
    return Slope(float(fit.slope), float(within), readings[0][1], readings[-1][1])


def report(load: Load, sampler: Sampler, asked: Asked) -> str:
    """The table: a line a process, the steepest first."""
    warm_s = asked.warm_up * 60
    fits = []
    for member, readings in sampler.found:
        warm = [reading for reading in readings if reading.at_s >= warm_s]
        resident = slope([(reading.at_s, reading.resident_mb) for reading in warm])
        anonymous = slope([(reading.at_s, reading.anonymous_mb) for reading in warm])
        if resident is not None and anonymous is not None:
            fits.append((member, resident, anonymous))
    fits.sort(key=lambda fit: -fit[2].mb_per_hour)
    lines = [
        [
            f"{member.role}: {member.part}" if member.part else member.role,
            f"{resident.first_mb:.1f}",
            f"{resident.last_mb:.1f}",
            str(resident),
            str(anonymous),
        ]
        for member, resident, anonymous in fits
    ]
    heads = ["process", "MB first", "MB last", "MB an hour", "anonymous MB an hour"]
    return f"{_told(load, asked)}\n\n{tables.table(heads, lines)}"


def _told(load: Load, asked: Asked) -> str:
    p50, p99 = load.latency_ms(0.5), load.latency_ms(0.99)
    return (
        f"Chat completions at {asked.rate:g} requests/s for {asked.minutes:g} minutes, after\n"
        f"{asked.warm_up:g} of warm-up, over {_CONNECTIONS} connections: "
        f"{len(load.latencies_us):,} answered, {load.errors} failed, "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms\n"
        f"from when each was due. Resident memory every {_EVERY_S:g} s; the slopes are of least\n"
        "squares after the warm-up, with their 95 % intervals. Anonymous is\n"
        "resident memory without files and shared pages: a Postgres process counts every shared\n"
        "buffer that it has touched."
    )


def soak(asked: Asked) -> str:
    with Upstream() as upstream, Instance() as instance:
        instance.declare(upstream.url)
        peer = platform.ours(instance)
        measure(peer.target, Pace(_CONNECTIONS, seconds=1, warm_up_s=3))
        sampler = Sampler(instance)
        sampler.start()
        pace = Pace(_CONNECTIONS, asked.minutes * 60, asked.warm_up * 60, rate=asked.rate)
        load = measure(peer.target, pace)
        sampler.stop()
        peer.settle()
    return report(load, sampler, asked)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=8, help="minutes before those")
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    asked = parser.parse_args()
    found = soak(Asked(asked.minutes, asked.warm_up, asked.rate))
    print(found)
    if asked.write:
        results = FOLDER / "RESULTS.md"
        text = results.read_text(encoding="utf-8")
        results.write_text(tables.replaced(text, "soak", found), encoding="utf-8")
        print(f"written: {results}", file=sys.stderr)


if __name__ == "__main__":
    main()
