"""Running a version: one interface, whatever its placement."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from dspex_ray.core.errors import DspexRayError
from dspex_ray.core.ids import ExecutionId
from dspex_ray.programs.model import Program
from dspex_ray.routing.scope import RequestScope
from dspex_ray.serving.snapshot import ServedVersion


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a version. The scope holds its deadline, and takes its LM calls."""

    id: ExecutionId
    program: Program
    version: ServedVersion
    inputs: dict[str, Any]
    scope: RequestScope
    traceparent: str


class Runner(Protocol):
    """Raises our own errors, and in this process also what the program's own code raised."""

    async def run(self, run: Run) -> dict[str, Any]:
        """The outputs, validated."""
        ...

    def stream(self, run: Run) -> AsyncGenerator[Any, None]:
        """Deltas as they come, then the outputs, as `programs.runtime.stream_program` gives them.
        Closing it cancels the run."""
        ...


class ByPlacement:
    """Sends each run to where the snapshot says that its version runs."""

    def __init__(self, shared: Runner, dedicated: Runner) -> None:
        self._shared = shared
        self._dedicated = dedicated

    async def run(self, run: Run) -> dict[str, Any]:
        return await self._of(run).run(run)

    def stream(self, run: Run) -> AsyncGenerator[Any, None]:
        return self._of(run).stream(run)

    def _of(self, run: Run) -> Runner:
        return self._shared if run.version.placement is None else self._dedicated


def of_the_program(error: BaseException) -> DspexRayError:
    """What the program's own code raised; its text may hold content and stays out."""
    return DspexRayError(f"the program raised {type(error).__name__}", kind=type(error).__name__)
