"""What a gateway replica spends its time on under load, by py-spy.

Writes the stacks (folded, for flame graphs) and a table of functions by own and whole time.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import roles
from benchmarks.cache import cache_folder
from benchmarks.instance import Instance
from benchmarks.load import Pace, measure
from benchmarks.peers import platform
from benchmarks.upstream import Upstream

_RATE_HZ: Final = 200
_SECONDS: Final = 15
_TOP: Final = 60
_BUSY_STACKS: Final = 10  #: a thread that only waits is always at one place
_PEERS: Final = {"chat": platform.ours, "program": platform.our_program}


class Share(NamedTuple):
    """Of all samples (0 to 1): in the function itself, and in it or what it calls."""

    function: str
    own: float
    whole: float


def profile(kind: str, connections: int = 16, seconds: float = _SECONDS) -> Path:
    """Profile a replica under `chat` or `program` load; the folder with what was found."""
    folder = cache_folder() / "profiles"
    folder.mkdir(exist_ok=True)
    with Upstream() as upstream, Instance() as instance:
        instance.declare(upstream.url)
        peer = _PEERS[kind](instance)
        measure(peer.target, Pace(connections, seconds=1, warm_up_s=3))
        sampler = _record(roles.find(instance, "gateway replica").pid, seconds, folder / kind)
        load = measure(peer.target, Pace(connections, seconds))
        sampler.wait(seconds + 60)
        peer.settle()
    told = f"{load.requests_s:.0f} req/s at {connections} connections while sampled\n"
    stacks = folder / f"{kind}.folded"
    table = summary(stacks.read_text(encoding="utf-8").splitlines())
    (folder / f"{kind}.md").write_text(f"{told}\n{table}", encoding="utf-8")
    print(f"{told}{table}\nin {folder}: {kind}.folded (all threads), {kind}.md")
    return folder


def summary(folded: Iterable[str]) -> str:
    """A table of the functions with the most own time, then of those with the most whole time."""
    found = shares(folded)
    by_own = sorted(found, key=lambda share: -share.own)[:_TOP]
    by_whole = sorted(found, key=lambda share: -share.whole)[:_TOP]
    return f"By own time:\n\n{_table(by_own)}\nBy whole time:\n\n{_table(by_whole)}"


def shares(folded: Iterable[str]) -> list[Share]:
    """From lines of `thread;outermost;...;innermost count`; a thread counts as a function.

    Threads that only wait, whose samples show next to no different stacks, are left out.
    """
    threads: dict[str, list[tuple[list[str], int]]] = {}
    for line in folded:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        threads.setdefault(frames[0], []).append((frames, int(count)))
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for samples in threads.values():
        if len(samples) < _BUSY_STACKS:
            continue
        for frames, samples_seen in samples:
            own[frames[-1]] += samples_seen
            whole.update(dict.fromkeys(frames, samples_seen))
    total = own.total()
    return [Share(name, own[name] / total, whole[name] / total) for name in whole]


def _record(pid: int, seconds: float, path: Path) -> subprocess.Popen[bytes]:
    """Sampling begins at once; threads that wait are left out."""
    sampler = str(Path(sys.executable).parent / "py-spy")
    options = ["--rate", str(_RATE_HZ), "--duration", str(int(seconds)), "--threads", "--function"]
    output = ["--format", "raw", "--output", f"{path}.folded"]
    return subprocess.Popen(
        [sampler, "record", "--pid", str(pid), *options, *output], stdout=subprocess.DEVNULL
    )


def _table(found: list[Share]) -> str:
    lines = [f"| {s.own:.1%} | {s.whole:.1%} | `{s.function}` |\n" for s in found]
    return "| own | whole | function |\n|---:|---:|---|\n" + "".join(lines)
