"""Structured logs: JSON lines (colours on a terminal), never a secret, never content."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from dspex_ray.core.masking import masked

WITHHELD = "[withheld]"

# What users sent and models answered. It lives in the spool and in `execution_contents` alone.
CONTENT_FIELDS = frozenset(
    {"inputs", "outputs", "prompt", "messages", "completion", "content", "request_body"}
)


def configure_logs(level: str, *, stream: TextIO | None = None, tty: bool | None = None) -> None:
    """Route structlog and the standard library's logging to one stream (stderr by default).

    `tty` None asks the stream. Replaces whatever handlers the root logger has; call it once, at
    a door. Raises ValueError for an unknown level.
    """
    out = stream or sys.stderr
    pretty = out.isatty() if tty is None else tty
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _without_marks, *_SHARED],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([structlog.dev.ConsoleRenderer()] if pretty else _JSON),
            ],
        )
    )
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def logged_as(
    *, request_id: str | None = None, trace_id: str | None = None, project: str | None = None
) -> AbstractContextManager[Any]:
    """Within the block every line of this task, and of those it starts, carries these."""
    given = {"request_id": request_id, "trace_id": trace_id, "project": project}
    return structlog.contextvars.bound_contextvars(
        **{name: value for name, value in given.items() if value is not None}
    )


def mask_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A processor: values of secret-named fields, however deep, become `***`."""
    result: EventDict = masked(event)
    return result


def withhold_content(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A processor: values of content-named fields, however deep, become `[withheld]`."""
    result: EventDict = _without_content(event)
    return result


def _without_marks(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Libraries mark records for themselves: once Ray is imported, each carries its timestamp."""
    return {
        name: value
        for name, value in event.items()
        if not name.startswith("_") or name in {"_record", "_from_structlog"}
    }


def _without_content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: WITHHELD if str(key).lower() in CONTENT_FIELDS else _without_content(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_content(item) for item in value]
    return value


def _json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    withhold_content,
    mask_secrets,
]
_JSON: list[Processor] = [
    # Tracebacks without local variables: those hold secrets and content.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    ),
    structlog.processors.JSONRenderer(serializer=_json),
]
