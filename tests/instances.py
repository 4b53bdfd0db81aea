"""One instance at a time: two cores carry no second one without slowing both down.

The tests that share an instance run in a row, those with instances of their own last; a shared
one ends before the first test that does not use it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

SHARED = ("platform", "house")  #: fixtures, in the order of their instances' lives


class Resident:
    """The shared instance that runs now."""

    def __init__(self) -> None:
        self.name: str | None = None  #: None while none runs
        self._context: AbstractContextManager[Any] | None = None
        self._instance: Any = None

    def live(self, name: str, start: Callable[[], AbstractContextManager[Any]]) -> Any:
        """The instance of that name: the one that runs, or a new one in the place of another."""
        if self.name != name:
            self.leave()
            context = start()
            self._instance = context.__enter__()
            self.name, self._context = name, context
        return self._instance

    def leave(self) -> None:
        context, self.name, self._context, self._instance = self._context, None, None, None
        if context is not None:
            context.__exit__(None, None, None)


_STASHED = pytest.StashKey[Resident]()


def resident(config: pytest.Config) -> Resident:
    if _STASHED not in config.stash:
        config.stash[_STASHED] = Resident()
        config.add_cleanup(config.stash[_STASHED].leave)
    return config.stash[_STASHED]


def in_order(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


def make_room(item: pytest.Item) -> None:
    """End the shared instance when this test is not one of its own."""
    used = _used(item)
    if used is None or used != resident(item.config).name:
        resident(item.config).leave()


def _place(item: pytest.Item) -> int:
    used = _used(item)
    return len(SHARED) if used is None else SHARED.index(used)


def _used(item: pytest.Item) -> str | None:
    names = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in names), None)
