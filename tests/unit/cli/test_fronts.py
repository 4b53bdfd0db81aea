"""`dspex optimize front`: the drawing in the terminal, the table as CSV, the pictures."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.cli.front_figures import Axis, axes_of
from dspex_ray.cli.front_plot import HEIGHT, WIDTH, scatter
from dspex_ray.optimization.front import Front, FrontPoint
from tests.unit.cli.conftest import Ran, Shell
from tests.unit.client import wire
from tests.unit.client.wire import ok, page

AT = f"/api/v1/optimizations/{wire.ID}"
X, Y = Axis("cost", "less"), Axis("accuracy", "more")
FIGURES = st.floats(-1e6, 1e6, allow_subnormal=False)
DRAWN = """\
accuracy (%), more is better
75.0% ┤                                                           1
      │
      │
      │
      │
      │
      │
      │
      │
      │
      │
      │
      │
      │
25.0% ┤2
      └────────────────────────────────────────────────────────────
       $0.0004                                              $0.0021
                     cost (USD a run), less is better\
"""


def a_point(accuracy: float, cost: float) -> FrontPoint:
    figures = {"accuracy": accuracy, "cost": cost}
    return FrontPoint(candidate="c", trial=1, figures=figures)


# --- in the terminal -----------------------------------------------------------------------------


def test_points_stand_where_their_figures_are() -> None:
    points = Front.model_validate(wire.front()).points
    assert "\n".join(line.rstrip() for line in scatter(points, X, Y).plain.split("\n")) == DRAWN


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=50))
def test_every_point_is_drawn_inside_once(figures: list[tuple[float, float]]) -> None:
    drawn = scatter([a_point(*one) for one in figures], X, Y).plain.split("\n")
    grid = drawn[1 : 1 + HEIGHT]
    cells = [line.partition("┤" if "┤" in line else "│")[2] for line in grid]
    assert {len(line) for line in cells} == {WIDTH}
    marks = "".join(cells).replace(" ", "")
    assert 1 <= len(marks) <= len({*figures})
    if len({*figures}) == 1:
        assert cells[HEIGHT - 1 - HEIGHT // 2][WIDTH // 2] == marks


def test_what_is_unknown_is_not_drawn() -> None:
    point = FrontPoint(candidate="c", trial=1, figures={"accuracy": 0.5})
    assert scatter([point], X, Y).plain == "no point has both figures"
    assert scatter([point, a_point(0.5, 1.0)], X, Y).plain.count("2") == 1


def test_axes_are_objectives_unless_others_are_named(shell: Shell) -> None:
    front = Front.model_validate(wire.front())

    def names(x: str | None, y: str | None) -> tuple[str, ...] | None:
        found = axes_of(front, x, y)
        return None if found is None else tuple(axis.name for axis in found)

    assert names(None, None) == ("cost", "accuracy")
    assert names("latency", None) == ("latency", "accuracy")
    assert names(None, "cost") == ("latency", "cost")
    assert names("accuracy", None) == ("accuracy", "cost")
    single = front.model_copy(update={"objectives": front.objectives[:1]})
    assert axes_of(single, None, None) is None
    shell.platform.replies = [ok(wire.front())]
    ran = shell("optimize", "front", wire.ID, "--x", "size")
    assert ran.code == 2
    assert "--x size: no point has it" in ran.err


# --- in files ------------------------------------------------------------------------------------


def test_csv_has_a_row_a_point(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "front.csv"
    shell.platform.replies = [ok(wire.front())]
    ran = shell("optimize", "front", wire.ID, "--csv", str(file))
    assert ran.code == 0
    with file.open(encoding="utf-8", newline="") as opened:
        first, second = csv.DictReader(opened)
    assert first == {
        "point": "1",
        "version": "5",
        "picked": "True",
        "trial": "7",
        "candidate": "cd" * 32,
        "accuracy": "0.75",
        "cost": "0.0021",
        "latency": "340.0",
        "held_out.accuracy": "0.7",
        "held_out.cost": "0.002",
        "held_out.latency": "350.0",
        "configuration.model": "gemma",
        "configuration.temperature": "0.5",
    }
    assert (second["held_out.accuracy"], second["configuration.model"]) == ("", "")


def drawn(shell: Shell, *options: str) -> Ran:
    trials = [wire.trial(3, facts={"figures": {"accuracy": 0.1, "cost": 0.003}}), wire.trial(4)]
    shell.platform.replies = [ok(wire.front()), page(*trials)]
    return shell("optimize", "front", wire.ID, *options)


def test_pictures_are_the_same_for_the_same_front(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png, svg, again = (tmp_path / name for name in ("f.png", "f.svg", "again.svg"))
    ran = drawn(shell, "--png", str(png), "--svg", str(svg), "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["points"][0]["version"] == 5
    assert png.read_bytes().startswith(b"\x89PNG")
    assert drawn(shell, "--svg", str(again), "--x", "cost", "--png", str(png)).code == 0
    assert svg.read_text(encoding="utf-8") == again.read_text(encoding="utf-8")
    assert [str(one.url.path) for one in shell.platform.asked] == [
        f"{AT}/front",
        f"{AT}/trials",
    ] * 2


def test_without_matplotlib_it_says_what_to_install(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = drawn(shell, "--png", str(tmp_path / "f.png"))
    assert ran.code == 2
    assert "install 'dspex-ray[plot]'" in ran.err
    assert shell.platform.asked == []


def test_a_picture_is_named_for_what_it_is(shell: Shell) -> None:
    ran = drawn(shell, "--svg", "front.png")
    assert ran.code == 2
    assert "must end in .svg" in ran.err


def test_a_front_of_one_objective_has_a_table_and_no_drawing(shell: Shell) -> None:
    one = wire.front(objectives=[{"name": "accuracy"}])
    shell.platform.replies = [ok(one)]
    ran = shell("optimize", "front", wire.ID)
    assert ran.code == 0
    assert "75.0%" in ran.out
    assert "┤" not in ran.out
    shell.platform.replies = [ok(one)]
    refused = shell("optimize", "front", wire.ID, "--png", "f.png")
    assert refused.code == 2
    assert "has no picture" in refused.err
