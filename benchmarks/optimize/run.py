"""Evaluation and optimization: python -m benchmarks.optimize.run [--only ITEM ...] [--quick]

A whole run writes RESULTS.md and results.json beside this file. With --only or --quick the figures
go into the cache folder instead: they are not of one run, or not of enough.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.cache import cache_folder
from benchmarks.machine import machine
from benchmarks.optimize import document, evaluation, overhead, quality, resume, volumes
from benchmarks.optimize.effort import FULL, QUICK, Effort
from benchmarks.optimize.figures import Row
from benchmarks.optimize.ground import Ground

ITEMS: Final[dict[str, Callable[[Effort, Ground], list[Row]]]] = {
    "quality": quality.measure,
    "evaluation": evaluation.measure,
    "overhead": overhead.measure,
    "resume": resume.measure,
}
_QUIET_LOAD: Final = 0.5
FOLDER: Final = Path(document.__file__).parent


def main() -> None:
    wanted = _arguments()
    effort = QUICK if wanted.quick else FULL
    whole = not (wanted.only or wanted.quick)
    folder = FOLDER if whole else cache_folder() / "optimize"
    if os.getloadavg()[0] > _QUIET_LOAD:
        print("this machine is busy: the figures will be of that, too", file=sys.stderr)
    about = document.About(datetime.now(UTC).date(), machine(), document.versions(), effort)
    rows: list[Row] = []
    with Ground(effort.examples) as ground:
        for name in wanted.only or ITEMS:
            started = time.monotonic()
            rows += ITEMS[name](effort, ground)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows += volumes.volumes()
    within = FOLDER.parent / "RESULTS.md" if whole else None
    results = document.write(folder, rows, about, within)
    print(document.document(rows, about))
    print(f"written: {results}, {folder / 'results.json'}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimize.run", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ITEMS, metavar="ITEM")
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
