"""The rows of `benchmarks.optimize.hypervolume`, which is measured apart and takes no instance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from benchmarks.optimize.figures import Finite, Row

ITEM: Final = "hypervolume"
FILE: Final = Path(__file__).with_name("hypervolume.json")


class Volume(BaseModel):
    """A sampler on a landscape over all seeds: median and quartiles. `won` is the share of seeds on
    which ours is ahead of it, `p` how likely that is by chance; None of ours."""

    model_config = ConfigDict(frozen=True)

    landscape: str
    kind: str
    sampler: str
    median: Finite
    low: Finite
    high: Finite
    won: Finite | None = None
    p: Finite | None = None


class Volumes(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, int]  #: the first, and the one after the last
    rows: tuple[Volume, ...]


def volumes(file: Path = FILE) -> list[Row]:
    """[] when nothing was measured. Raises pydantic.ValidationError for what is no such file."""
    if not file.exists():
        return []
    found = Volumes.model_validate_json(file.read_bytes())
    first, end = found.seeds
    return [row for each in found.rows for row in _rows(each, end - first)]


def seeds_measured(file: Path = FILE) -> str:
    if not file.exists():
        return "seeds"
    first, end = Volumes.model_validate_json(file.read_bytes()).seeds
    return f"seeds {first} to {end - 1}"


def _rows(each: Volume, seeds: int) -> Iterator[Row]:
    figures = {
        "hypervolume": (each.median, each.low, each.high),
        "seeds that ours is ahead on": (each.won, each.won, each.won),
        "p": (each.p, each.p, each.p),
    }
    for measure, (value, low, high) in figures.items():
        if value is not None and low is not None and high is not None:
            yield Row(
                item=ITEM,
                case=f"{each.landscape} ({each.kind})",
                who=each.sampler,
                measure=measure,
                unit="",
                value=value,
                low=low,
                high=high,
                rounds=seeds,
                reached=seeds,
            )
