"""A front as a picture: its points over what they beat, and how the dominated volume grew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from dspex_ray.cli.front_figures import Axis
from dspex_ray.optimization.front import Front

Figures = dict[str, float]
_MISSING = "--png and --svg need matplotlib, which is not installed: pip install 'dspex-ray[plot]'"


def require_matplotlib() -> None:
    """Wrong usage, with the remedy, where it is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise typer.BadParameter(_MISSING) from None


def save_pictures(
    front: Front, tried: Sequence[Figures], x: Axis, y: Axis, files: Iterable[Path]
) -> None:
    """Each file in the format that its name ends with. `tried` are the figures of all trials."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if front.hypervolume else 1
    figure = Figure(figsize=(6.4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    first, *others = figure.subplots(1, panels, squeeze=False)[0]
    _points(first, front, tried, x, y)
    for panel in others:
        _volume(panel, front)
    for file in files:
        # without the time of day and random ids in it: the same front, the same file
        kept = {"Date": None} if file.suffix.lower() == ".svg" else None
        with mpl.rc_context({"svg.hashsalt": "dspex-ray"}):
            figure.savefig(file, metadata=kept, dpi=150)


def _points(panel: Any, front: Front, tried: Sequence[Figures], x: Axis, y: Axis) -> None:
    grey = _both(tried, x, y)
    if grey:
        panel.scatter(*zip(*grey, strict=True), s=14, color="0.75", label="beaten", zorder=1)
    kept = sorted(_both([point.figures for point in front.points], x, y))
    if kept:
        line = "o-" if len(front.objectives) == 2 else "o"  # of more, this is but a shadow
        panel.plot(*zip(*kept, strict=True), line, color="C0", label="front", zorder=2)
    held_out = _both([point.held_out or {} for point in front.points], x, y)
    if held_out:
        panel.scatter(
            *zip(*held_out, strict=True), marker="x", color="C1", label="held out", zorder=3
        )
    for point in front.points:
        across, up = x.of(point.figures), y.of(point.figures)
        if across is None or up is None:
            continue
        name = "" if point.version is None else f"@{point.version}"
        panel.annotate(name, (across, up), textcoords="offset points", xytext=(6, 6))
        if point.picked:
            panel.scatter([across], [up], s=140, facecolors="none", edgecolors="C3", label="pick")
    panel.set_xlabel(x.label)
    panel.set_ylabel(y.label)
    panel.legend()


def _volume(panel: Any, front: Front) -> None:
    trials = [mark.trials for mark in front.hypervolume]
    panel.step(trials, [mark.value for mark in front.hypervolume], where="post")
    panel.set_xlabel("trials")
    panel.set_ylabel("hypervolume of the front")


def _both(rows: Iterable[Figures], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Where both figures are known."""
    places = ((x.of(row), y.of(row)) for row in rows)
    return [(across, up) for across, up in places if across is not None and up is not None]
