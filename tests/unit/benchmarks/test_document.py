"""RESULTS.md: its tables, its targets, and the parts that a run leaves alone."""

from __future__ import annotations

from datetime import date

import pytest

from benchmarks import tables
from benchmarks.document import About, document
from benchmarks.figures import Row, compared
from benchmarks.goals import GOALS
from benchmarks.peers import litellm
from benchmarks.rounds import QUICK

_ABOUT = About(date(2026, 1, 2), {"CPU": "one"}, {"Python": "3.11"}, QUICK)


def _requests(value: float, connections: int, peer: str | None = None) -> Row:
    return Row(
        name="gateway.requests", value=value, unit="req/s", connections=connections, peer=peer
    )


def _rows(ours: float) -> list[Row]:
    return compared([_requests(ours, 1), _requests(100, 1, litellm.NAME)])


def test_a_table_by_peer_has_a_line_for_each() -> None:
    assert tables.by_peer(_rows(1234), "gateway", "requests") == (
        "| 1 connection | requests req/s | ours / theirs |\n"
        "| --- | ---: | ---: |\n"
        "| **dspex-ray** | 1,234 |  |\n"
        "| LiteLLM proxy | 100 | 12.34 |\n"
    )


@pytest.mark.parametrize(("ours", "met"), [(500, True), (499, False)])
def test_a_target_is_met_from_its_figure_on(ours: float, met: bool) -> None:
    assert GOALS[0].is_met(_rows(ours)) is met


def test_a_target_is_met_at_every_number_of_connections() -> None:
    rows = [_requests(100, 16), _requests(100, 16, litellm.NAME)]
    assert GOALS[0].is_met(compared([*_rows(500), *rows])) is False


def test_what_was_not_measured_meets_nothing() -> None:
    assert all(goal.is_met([]) is None for goal in GOALS)
    assert GOALS[0].is_met([_requests(100, 1, litellm.NAME)]) is False


def test_a_run_keeps_what_it_does_not_measure() -> None:
    first = document(_rows(500), _ABOUT)
    told = tables.replaced(first, "profile", "The *profile* says \\1 why.")
    again = document(_rows(700), _ABOUT, before=told)
    assert tables.kept(again, "profile") == "The *profile* says \\1 why."
    assert tables.kept(again, "soak") == tables.kept(first, "soak")
    assert "| **dspex-ray** | 700 |" in again


def test_a_part_that_is_not_there_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="'profile'"):
        tables.replaced("# Results\n", "profile", "text")
