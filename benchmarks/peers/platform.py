"""Ours and the bare ingress: two applications of one instance, behind the same HAProxy."""

from __future__ import annotations

from typing import Any

from benchmarks.instance import Instance
from benchmarks.load import Target
from benchmarks.peers.peer import EXPECT, Peer, chat_target

BARE = "bare Serve ingress"
QUESTION = "Why is the sky blue by day and red at dusk?"


def bare_application(upstream: str) -> dict[str, Any]:
    """As many replicas as our gateway has, with the same limits."""
    return {
        "name": "bare",
        "route_prefix": "/bare",
        "import_path": "benchmarks.peers.bare_app:build",
        "args": {"upstream": upstream},
        "deployments": [
            {
                "name": "bare",
                "num_replicas": 1,
                "max_ongoing_requests": 500,
                "ray_actor_options": {"num_cpus": 0.1},
            }
        ],
    }


def bare(instance: Instance) -> Peer:
    return Peer(BARE, chat_target(f"{instance.url}/bare/v1"))


def ours(instance: Instance) -> Peer:
    """Key, routing, cost and records as always; a round is over when its records are stored."""
    return Peer(None, chat_target(f"{instance.url}/v1", instance.headers), instance.drained)


def our_program(instance: Instance) -> Peer:
    target = Target(
        f"{instance.url}/v1/programs/answerer/predict",
        instance.headers,
        {"inputs": {"question": QUESTION}},
        EXPECT,
    )
    return Peer(None, target, instance.drained)
