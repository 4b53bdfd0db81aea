"""Who acts, where, and what they may do."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from dspex_ray.core.ids import DEFAULT_PROJECT, ProjectId


class Scope(StrEnum):
    INVOKE = "invoke"  #: run programs and models on the data plane
    READ = "read"  #: read every resource of the project
    WRITE = "write"  #: create, change and delete resources
    ADMIN = "admin"  #: keys and audit; implies the other three


class Actor(NamedTuple):
    """Who acts, in which project. `name` is what the audit row says."""

    name: str
    project_id: ProjectId
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


# What the platform itself does: migrations, workers, the health of models.
SYSTEM = Actor("system", DEFAULT_PROJECT, frozenset(Scope))
