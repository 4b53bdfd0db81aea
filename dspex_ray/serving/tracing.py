"""The span of an execution, within that of the HTTP request which Serve makes."""

from __future__ import annotations

from contextlib import AbstractContextManager

from dspex_ray.serving.request import Recording
from dspex_ray.serving.runner import Run
from dspex_ray.telemetry import spans
from dspex_ray.traces.model import ExecutionRecord


def begin_execution(recording: Recording) -> None:
    """Everything that follows in this context belongs to it; nothing when it is not traced."""
    recording.span = spans.begin(recording.endpoint, shared=lambda: _attributes(recording))


def end_execution(recording: Recording, record: ExecutionRecord) -> None:
    span, recording.span = recording.span, None
    if span is None:
        return
    program = record.program
    workflow: spans.Attributes = (
        {}
        if program is None
        else {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": program}
    )
    told = {**_attributes(recording), **workflow, "dspex.status": record.status.value}
    span.end(
        told,
        name=None if program is None else f"invoke_workflow {program}",
        error=record.error_code,
    )


def continue_execution(run: Run) -> AbstractContextManager[None]:
    """In the process that runs a dedicated version: the gateway's trace goes on."""
    return spans.continued(
        run.traceparent,
        shared=lambda: {
            "dspex.execution": str(run.id),
            "dspex.project": str(run.program.project_id),
            "dspex.program": run.program.name,
            "dspex.program.version": run.version.number,
        },
    )


def _attributes(recording: Recording) -> spans.Attributes:
    pick = recording.pick
    return {
        "dspex.execution": str(recording.ask.id),
        "dspex.endpoint": recording.endpoint,
        "dspex.project": str(recording.ask.key.project_id),
        "dspex.program": None if pick is None else pick.program.name,
        "dspex.program.version": None if pick is None else pick.version.number,
    }
