"""Carrying out trials that do not depend on each other: a generation is asked for, measured, told.

A generation's trials start in the order asked and are told in that order once all have ended, so
that a search decides the same however many are measured at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from dspex_ray.core.errors import Conflict
from dspex_ray.optimization.budget import RunHalted

Figures = Mapping[str, float]
Ask = Callable[[], Sequence[int]]
Measure = Callable[[int], Awaitable[Figures]]
Tell = Callable[[int, Figures | Exception], None]


class TrialRunner(Protocol):
    async def run(self, ask: Ask, measure: Measure, tell: Tell, at_once: int) -> None:
        """Until `ask` gives no more numbers.

        `ask` gives the numbers of the next generation. Each is measured, at most `at_once` at a
        time; then `tell` hears of every one of them in that order: its figures, or the exception
        it ended with. RunHalted is raised out of here, once what was under way has ended and what
        was measured is told; nothing of the generation starts after it.
        """
        ...


class LocalTrials:
    """In this process, on its event loop."""

    async def run(self, ask: Ask, measure: Measure, tell: Tell, at_once: int) -> None:
        while numbers := ask():
            await _generation(numbers, measure, tell, at_once)


async def _generation(numbers: Sequence[int], measure: Measure, tell: Tell, at_once: int) -> None:
    found: dict[int, Figures | Exception] = {}
    halts: list[RunHalted] = []
    waiting = iter(numbers)

    async def work() -> None:
        while not halts and (number := next(waiting, None)) is not None:
            try:
                found[number] = await measure(number)
            except RunHalted as halt:
                halts.append(halt)
            except Exception as error:
                found[number] = error

    await _all([asyncio.ensure_future(work()) for _ in range(min(at_once, len(numbers)))])
    for number in numbers:
        if number in found:
            tell(number, found[number])
    if halts:
        raise halts[0]


async def _all(tasks: Sequence[asyncio.Future[None]]) -> None:
    """None of them outlives this."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(BaseException):
            await asyncio.gather(*tasks, return_exceptions=True)


class MeasureDoor:
    """How another process asks for a measurement by its number, as a Tune trial does.

    Each number is measured once, however often it is asked for: who was started again, since its
    process died, gets what the first asking comes to.
    """

    def __init__(self) -> None:
        self._measure: Measure | None = None
        self._found: dict[int, asyncio.Future[Figures]] = {}

    @contextmanager
    def opened(self, measure: Measure) -> Iterator[None]:
        """While it is open, numbers are measured by this. Numbers of an earlier opening are
        forgotten."""
        self._measure, self._found = measure, {}
        try:
            yield
        finally:
            self._measure = None

    async def measured(self, number: int) -> Figures:
        """What the measurement comes to; raises what it raised, and Conflict when nobody
        measures."""
        if number not in self._found:
            if self._measure is None:
                raise Conflict(f"trial {number}: nobody measures now")
            self._found[number] = asyncio.ensure_future(self._measure(number))
        return await asyncio.shield(self._found[number])
