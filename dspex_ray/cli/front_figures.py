"""Figures of a front in the units that people read, and which of them a drawing shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import typer

from dspex_ray.optimization.front import Front


class _Unit(NamedTuple):
    name: str
    told: Callable[[float], str]
    scale: float = 1.0


_SHARE = _Unit("%", lambda value: f"{value:.1%}", 100.0)
_MS = _Unit("ms", lambda value: f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms")
_A_RUN = _Unit("a run", lambda value: f"{value:,.4g}")
_UNITS = {
    "accuracy": _SHARE,
    "failures": _SHARE,
    "latency": _MS,
    "latency_p95": _MS,
    "cost": _Unit("USD a run", lambda value: f"${value:.3g}"),
    "tokens": _A_RUN,
    "lm_calls": _A_RUN,
}
_OTHER = _Unit("", lambda value: f"{value:.3f}")


def told(name: str, value: float | None) -> str | None:
    """The figure of that name as a person reads it; None stays None."""
    return None if value is None else _unit(name).told(value)


class Axis(NamedTuple):
    """A figure that a drawing shows, in a unit; `better` is "more" or "less", or "" if it is no
    objective."""

    name: str
    better: str

    @property
    def label(self) -> str:
        unit = _unit(self.name).name
        better = f", {self.better} is better" if self.better else ""
        return f"{self.name}{f' ({unit})' if unit else ''}{better}"

    def of(self, figures: dict[str, float]) -> float | None:
        """In the axis's unit."""
        value = figures.get(self.name)
        return None if value is None else value * _unit(self.name).scale

    def told(self, value: float) -> str:
        """A place on the axis."""
        return _unit(self.name).told(value / _unit(self.name).scale)


def axes_of(front: Front, x: str | None, y: str | None) -> tuple[Axis, Axis] | None:
    """What was asked for; else the second objective over the first. None of a front of one
    objective when nothing was asked for. A figure that no point has is wrong usage."""
    names = [objective.name for objective in front.objectives]
    if x is None and y is None and len(names) < 2:
        return None
    across = x or next((name for name in names[1:] if name != y), names[0])
    up = y or next((name for name in names if name != across), names[0])
    known = sorted({name for point in front.points for name in point.figures})
    for option, name in (("--x", across), ("--y", up)):
        if name not in known:
            raise typer.BadParameter(f"{option} {name}: no point has it (there are: {known})")
    return _axis(front, across), _axis(front, up)


def columns_of(front: Front) -> list[str]:
    """The names of all figures: objectives in their order, then others by name."""
    others = sorted({name for point in front.points for name in point.figures})
    return list(dict.fromkeys([*(objective.name for objective in front.objectives), *others]))


def _axis(front: Front, name: str) -> Axis:
    found = next((one for one in front.objectives if one.name == name), None)
    if found is None:
        return Axis(name, "")
    return Axis(name, "more" if found.direction == "maximize" else "less")


def _unit(name: str) -> _Unit:
    return _UNITS.get(name, _OTHER)
