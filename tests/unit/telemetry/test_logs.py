"""A log line is one JSON object, without secrets and without content, whoever wrote it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from dspex_ray.telemetry.logs import WITHHELD, configure_logs, get_logger, logged_as


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("info", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_has_its_fields(out: io.StringIO) -> None:
    get_logger("room").info("model approved", model="m1", latency_ms=1.5)
    [line] = lines(out)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "model approved",
        "level": "info",
        "logger": "room",
        "model": "m1",
        "latency_ms": 1.5,
    }


def test_the_standard_librarys_lines_look_the_same(out: io.StringIO) -> None:
    extra = {"api_key": "sk-1", "queue": "q", "_mark_of_a_library": 1}
    logging.getLogger("library").warning("%d left", 3, extra=extra)
    [line] = lines(out)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "3 left",
        "level": "warning",
        "logger": "library",
        "api_key": "***",
        "queue": "q",
    }


def test_secrets_and_content_stay_out_however_deep(out: io.StringIO) -> None:
    get_logger("room").info(
        "call",
        password="hunter2",
        prompt_tokens=7,
        headers={"authorization": "Bearer x"},
        request={"messages": [{"content": "private"}], "model": "m"},
        Prompt="private",
        items=[{"outputs": {"answer": "private"}}],
    )
    [line] = lines(out)
    assert "private" not in out.getvalue()
    assert "hunter2" not in out.getvalue()
    assert line["prompt_tokens"] == 7
    assert line["headers"] == {"authorization": "***"}
    assert line["request"] == {"messages": WITHHELD, "model": "m"}
    assert line["items"] == [{"outputs": WITHHELD}]


async def test_what_is_bound_stays_in_its_task(out: io.StringIO) -> None:
    log = get_logger("room")

    async def serve(name: str) -> None:
        with logged_as(request_id=name, trace_id=f"t-{name}", project="default"):
            await asyncio.sleep(0)
            logging.getLogger("library").info("served")

    await asyncio.gather(serve("a"), serve("b"))
    log.info("after")
    first, second, after = lines(out)
    assert {first["request_id"], second["request_id"]} == {"a", "b"}
    assert first["trace_id"] == f"t-{first['request_id']}"
    assert "request_id" not in after


def test_a_traceback_does_not_show_variables(out: io.StringIO) -> None:
    def fail() -> None:
        sealed = "sk-very-secret"
        raise ValueError(len(sealed))

    try:
        fail()
    except ValueError:
        get_logger("room").exception("failed")
    [line] = lines(out)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "sk-very-secret" not in out.getvalue()


def test_the_level_is_kept(out: io.StringIO) -> None:
    get_logger("room").debug("quiet")
    logging.getLogger("library").debug("quiet")
    assert lines(out) == []


def test_what_json_does_not_know_is_shown_as_python_shows_it(out: io.StringIO) -> None:
    get_logger("room").info("odd", error=OSError("x"), by_number={1: "one"})
    [line] = lines(out)
    assert line["error"] == "OSError('x')"
    assert line["by_number"] == {"1": "one"}


def test_a_terminal_gets_readable_lines() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure_logs("INFO", stream=stream, tty=True)
        get_logger("room").info("hello", token="abc")
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "hello" in stream.getvalue()
    assert "abc" not in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logs("loud", stream=io.StringIO())
