"""Versions, built and held in this process: the `shared` placement.

The `dedicated` placement puts the same interface in front of a DeploymentHandle.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from dspex_ray.programs.artifacts import load_artifact
from dspex_ray.programs.runtime import LoadedProgram, load_program
from dspex_ray.serving.snapshot import ServedVersion

_HELD = 256  # built programs; a version is KBs of JSON and some dspy objects


class Executor:
    """Builds a version once, however many requests come for it, and keeps the newest used."""

    def __init__(self, allowed_packages: tuple[str, ...]) -> None:
        self._allowed = allowed_packages
        self._built: OrderedDict[str, asyncio.Future[LoadedProgram]] = OrderedDict()

    async def program(self, version: ServedVersion) -> LoadedProgram:
        """Raises Invalid when the artifact cannot be built here (a class that changed)."""
        held = self._built.get(version.hash)
        if held is None:
            held = asyncio.ensure_future(asyncio.to_thread(self._build, version))
            self._built[version.hash] = held
            if len(self._built) > _HELD:
                self._built.popitem(last=False)
        else:
            self._built.move_to_end(version.hash)
        try:
            # Shielded: one caller that goes away does not end the building for the others.
            return await asyncio.shield(held)
        except asyncio.CancelledError:
            raise
        except BaseException:
            if self._built.get(version.hash) is held:
                del self._built[version.hash]  # the next request tries again
            raise

    def _build(self, version: ServedVersion) -> LoadedProgram:
        artifact = load_artifact(version.artifact, version.hash)
        return load_program(artifact, allowed_packages=self._allowed)
