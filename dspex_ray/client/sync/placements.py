# Generated from ../aio/placements.py by scripts/generate_sync_client.py: edit that one.
"""Placements: versions that run as applications of their own."""

from __future__ import annotations

import time

from dspex_ray.client.bodies import Ask, if_match, path, payload
from dspex_ray.client.sync.connection import Connection
from dspex_ray.core.errors import DeadlineExceeded
from dspex_ray.core.page import Page
from dspex_ray.placements.model import NewPlacement, Placement, PlacementStatus

_PLACEMENT = "/api/v1/programs/{program}/versions/{number}/placement"
_PLACEMENTS = "/api/v1/programs/{program}/placements"
_POLL_S = 0.25


class Placements:
    """Where versions run: those without a placement run `shared`, among the gateways."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, program: str, number: int) -> Placement:
        """Raises NotFound for a version that is `shared`."""
        where = path(_PLACEMENT, program=program, number=number)
        return self._connection.call(Placement, Ask("GET", where, repeatable=True))

    def list(self, program: str) -> Page[Placement]:
        """Of all its versions, newest first."""
        where = path(_PLACEMENTS, program=program)
        return self._connection.call(Page[Placement], Ask("GET", where, repeatable=True))

    def put(
        self, program: str, number: int, new: NewPlacement, *, revision: int | None = None
    ) -> Placement:
        """Let the version run as an application of its own. It takes traffic once it is `ready`;
        with `revision`, only if the placement still has it (Stale)."""
        where = path(_PLACEMENT, program=program, number=number)
        ask = Ask("PUT", where, content=payload(new), headers=if_match(revision))
        return self._connection.call(Placement, ask)

    def remove(self, program: str, number: int) -> Placement:
        """Serve the version `shared` again; requests under way are finished."""
        where = path(_PLACEMENT, program=program, number=number)
        return self._connection.call(Placement, Ask("DELETE", where))

    def wait(self, program: str, number: int, *, timeout_s: float = 180) -> Placement:
        """Until it is `ready` or has `failed`; raises DeadlineExceeded when that takes longer."""
        for _ in range(max(1, round(timeout_s / _POLL_S))):
            placement = self.get(program, number)
            if placement.status in {PlacementStatus.READY, PlacementStatus.FAILED}:
                return placement
            time.sleep(_POLL_S)
        raise DeadlineExceeded(
            f"version {number} of {program!r} is still {placement.status.value!r}"
        )
