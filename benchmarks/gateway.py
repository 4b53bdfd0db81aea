"""Gateway overhead: what a chat completion through us costs over asking the upstream itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from subprocess import SubprocessError

from benchmarks.figures import UPSTREAM, Row
from benchmarks.instance import Instance
from benchmarks.peers import litellm, platform, portkey
from benchmarks.peers.peer import Peer, chat_target
from benchmarks.rounds import Effort, interleaved, medians
from benchmarks.upstream import Upstream

Starter = Callable[[str], AbstractContextManager[Peer]]
_OTHERS: tuple[tuple[str, Starter], ...] = (
    (litellm.NAME, litellm.litellm),
    (portkey.NAME, portkey.portkey),
)


def measure(effort: Effort) -> list[Row]:
    """All servers run, and one of them is asked at a time."""
    with ExitStack() as running:
        upstream = running.enter_context(Upstream()).url
        instance = running.enter_context(Instance((platform.bare_application(upstream),)))
        instance.declare(upstream)
        peers = [
            Peer(UPSTREAM, chat_target(upstream)),
            platform.ours(instance),
            platform.bare(instance),
            *_others(running, upstream),
        ]
        rows = medians("gateway", interleaved(peers, effort))
    return [*rows, *added(rows)]


def added(rows: list[Row]) -> Iterator[Row]:
    """Each peer's p50 and p99 less the upstream's own at the same connections."""
    times = {(row.name, row.connections, row.peer): row for row in rows if row.unit == "ms"}
    for (name, connections, peer), row in times.items():
        if peer != UPSTREAM:
            alone = times[name, connections, UPSTREAM].value
            section, measure_name = name.split(".")
            changes = {
                "name": f"{section}.added_{measure_name}",
                "value": round(row.value - alone, 3),
            }
            yield row.model_copy(update=changes)


def _others(running: ExitStack, upstream: str) -> Iterator[Peer]:
    """The peers that can be installed here; says which cannot."""
    for name, start in _OTHERS:
        try:
            yield running.enter_context(start(upstream))
        except (OSError, RuntimeError, SubprocessError) as error:
            print(f"{name} is not measured: {error}", flush=True)
