"""All benchmarks in one run: python -m benchmarks.run [--only NAME ...] [--quick]

A whole run writes benchmarks/RESULTS.md and benchmarks/results.json. With --only or --quick the
figures go into the cache folder instead: they are not of one run, or not of enough. --profile
samples a gateway replica under load, and measures nothing else.
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

import benchmarks
from benchmarks import document, gateway, profiling, programs, rules, spool, startup
from benchmarks.cache import cache_folder
from benchmarks.document import About
from benchmarks.figures import Row, compared
from benchmarks.machine import machine, versions
from benchmarks.rounds import FULL, QUICK, Effort

SECTIONS: Final[dict[str, Callable[[Effort], list[Row]]]] = {
    "gateway": gateway.measure,
    "programs": programs.measure,
    "select_model": rules.selection,
    "signature": rules.signatures,
    "spool": spool.measure,
    "startup": startup.measure,
}
_QUIET_LOAD: Final = 0.5
FOLDER: Final = Path(benchmarks.__file__).parent


def main() -> None:
    asked = _arguments()
    if asked.profile:
        profiling.profile(asked.profile)
        return
    effort = QUICK if asked.quick else FULL
    whole = not (asked.only or asked.quick)
    folder = FOLDER if whole else cache_folder()
    if os.getloadavg()[0] > _QUIET_LOAD:
        print("this machine is busy: the figures will be of that, too", file=sys.stderr)
    about = About(datetime.now(UTC).date(), machine(), versions(), effort)
    rows: list[Row] = []
    for name in asked.only or SECTIONS:
        started = time.monotonic()
        rows += SECTIONS[name](effort)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows = compared(rows)
    document.write(folder, rows, about)
    print((folder / "RESULTS.md").read_text(encoding="utf-8"))
    print(f"written: {folder / 'RESULTS.md'}, {folder / 'results.json'}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--profile", nargs="?", const="chat", choices=("chat", "program"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
