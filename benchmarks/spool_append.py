"""What recording costs a request: capture and append of a typical record, in microseconds.

Usage: python benchmarks/spool_append.py [records]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.typical_records import typical
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id
from dspex_ray.programs.model import CapturePolicy
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.capture import captured
from dspex_ray.traces.spool import SpoolWriter, encode


def main(count: int) -> None:
    records = [typical() for _ in range(count)]
    print(f"{count} records of {len(encode(records[0]))} bytes")
    started = time.perf_counter()
    redacted = [captured(record, CapturePolicy(mode="redacted")) for record in records]
    print(f"capture, redacted: {_us(started, count):6.1f} us a record")
    with tempfile.TemporaryDirectory() as folder:
        writer = SpoolWriter(Path(folder), SpoolSettings(), SystemClock(), new_id)
        taken = []
        for record in redacted:
            started = time.perf_counter()
            assert writer.append(record)
            taken.append((time.perf_counter() - started) * 1e6)
        writer.close()
    taken.sort()
    print(f"append:            {sum(taken) / count:6.1f} us a record on average")
    print(
        f"                   {taken[count // 2]:6.1f} us median, {taken[count * 99 // 100]:.1f} p99"
    )


def _us(started: float, count: int) -> float:
    return (time.perf_counter() - started) / count * 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
