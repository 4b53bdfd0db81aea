from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from dspex_ray.cli.inputs import moment
from dspex_ray.cli.output import plain, usd

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (None, None),
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T10:00:00Z", datetime(2026, 2, 1, 10, tzinfo=UTC)),
    ],
)
def test_moments(text: str | None, at: datetime | None) -> None:
    assert moment(text, NOW) == at


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "9999999d", "soon"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must read"):
        moment(text, NOW)


def test_control_characters_are_shown_not_obeyed() -> None:
    assert plain("a\r\nb\tc\x1b[2J\x00\x9b") == "a\nb\tc\ufffd[2J\ufffd\ufffd"


def test_an_unknown_cost_is_not_zero() -> None:
    from decimal import Decimal

    assert usd(None) == "unknown"
    assert usd(Decimal(0)) == "$0"
    assert usd(Decimal("0.00000150")) == "$0.0000015"
    assert usd(Decimal(100)) == "$100"
