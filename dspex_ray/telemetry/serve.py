"""What makes Ray Serve's processes trace, and keeps others from doing it beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dspex_ray.settings import TelemetrySettings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

# FastAPI's own telemetry: it knows nothing of Serve's span and would begin a second trace.
OFF: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}

_PREFIX = "DSPEX_RAY_TELEMETRY__"


def serve_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to an environment whose settings ask for spans.

    Empty when they do not: then neither Serve nor we trace anything. Raises ValueError for a bad
    setting.
    """
    given = {
        name: environment[_PREFIX + name.upper()]
        for name in TelemetrySettings.model_fields
        if _PREFIX + name.upper() in environment
    }
    settings = TelemetrySettings.model_validate(given)
    if not settings.traces:
        return {}
    return {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "dspex_ray.telemetry.export:span_processors",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": str(settings.sample_ratio),
        "OTEL_SERVICE_NAME": "dspex-ray",
    }
