"""Trials carried out by Ray Tune: the same as those carried out here, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray]
ray = pytest.importorskip("ray")

NAMESPACE = "dspex-test"
GENERATIONS = ((1,), (2, 3, 4, 5), (6, 7, 8, 9), (10, 11, 12))


class Run:
    """What the actor of a run is to Tune: a door, a loop, and measurements by number."""

    def __init__(self, name: str, folder: str) -> None:
        from dspex_ray.optimization.trials import MeasureDoor
        from dspex_ray.optimization.tuning import Called, TuneTrials

        self._door = MeasureDoor()
        self._trials = TuneTrials(self._door, Called(name, NAMESPACE), Path(folder))
        self._begun: Counter[int] = Counter()
        self._asked: set[int] = set()
        self._told: list[Any] = []
        self._left = list(GENERATIONS)
        self._hold = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._halt_at: int | None = None

    async def measure(self, number: int) -> dict[str, float | str]:
        """What Tune's trials call."""
        from dspex_ray.optimization.tuning import answered

        self._asked.add(number)
        return await answered(self._door, number)

    async def carry_out(self, held: bool = False, halt_at: int | None = None) -> list[Any]:
        """What was told, in order."""
        if not held:
            self._hold.set()
        self._halt_at = halt_at
        self._task = asyncio.ensure_future(
            self._trials.run(self._ask, self._measured, self._tell, at_once=3)
        )
        try:
            await self._task
        except BaseException as error:  # a halt is no Exception, and must not end the actor
            self._told.append(type(error).__name__)
        return self._told

    async def begun(self) -> dict[int, int]:
        """How often each number was measured."""
        return dict(self._begun)

    async def asked(self) -> set[int]:
        """The numbers that Tune's trials asked for, rather than anybody here."""
        return self._asked

    async def release(self) -> None:
        self._hold.set()

    async def cancel(self) -> float:
        """Seconds that it took."""
        since = time.monotonic()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        return time.monotonic() - since

    def _ask(self) -> Sequence[int]:
        return self._left.pop(0) if self._left else ()

    async def _measured(self, number: int) -> dict[str, float]:
        from dspex_ray.optimization.budget import BudgetExhausted

        self._begun[number] += 1
        await self._hold.wait()
        await asyncio.sleep(0.02 * (number % 3))
        if number == self._halt_at:
            raise BudgetExhausted("lm_calls")
        if number == 7:
            raise ValueError("content")
        return {"accuracy": number / 12, "cost": float("nan")}

    def _tell(self, number: int, found: Any) -> None:
        said = type(found).__name__ if isinstance(found, Exception) else found["accuracy"]
        self._told.append((number, said))


EXPECTED = [(n, "ValueError" if n == 7 else n / 12) for n in range(1, 13)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dxt", dir="/tmp"))
    ray.init(
        num_cpus=1, include_dashboard=False, _temp_dir=str(folder), namespace=NAMESPACE,
        log_to_driver=False,
    )  # fmt: skip
    try:
        yield folder
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(cluster: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    name = f"run-{request.node.name}"
    # All of the only CPU: trials must not need one.
    made = ray.remote(Run).options(name=name, num_cpus=0, max_concurrency=64)
    handle = made.remote(name, str(tmp_path))
    yield handle
    ray.kill(handle)
    assert list(tmp_path.iterdir()) == []  # what Tune had written is gone


def trial_pids() -> list[int]:
    """Of the actors that Tune has alive: asked of this cluster, whatever others there are."""
    from ray._private.state import actors

    return [
        actor["Pid"]
        for actor in actors().values()
        if actor["State"] == "ALIVE" and actor["ActorClassName"] == "MeasuredTrial"
    ]


def eventually(said: Any, within_s: float = 60.0) -> Any:
    until = time.monotonic() + within_s
    while not (found := said()):
        assert time.monotonic() < until
        time.sleep(0.2)
    return found


def test_trials_are_told_in_order_and_measured_once(run: Any) -> None:
    since = time.monotonic()
    assert ray.get(run.carry_out.remote()) == EXPECTED
    print(f"12 trials: {time.monotonic() - since:.1f} s")
    assert ray.get(run.begun.remote()) == dict.fromkeys(range(1, 13), 1)
    assert ray.get(run.asked.remote()) == set(range(1, 13))


def test_a_trial_whose_actor_died_gets_the_same_measurement(run: Any) -> None:
    told = run.carry_out.remote(held=True)
    eventually(lambda: ray.get(run.begun.remote()).get(1))
    (pid,) = eventually(trial_pids)
    os.kill(pid, 9)
    eventually(lambda: trial_pids() not in ([], [pid]))
    ray.get(run.release.remote())
    assert ray.get(told) == EXPECTED
    assert ray.get(run.begun.remote()) == dict.fromkeys(range(1, 13), 1)


def test_a_halt_ends_it_once_what_was_under_way_is_told(run: Any) -> None:
    told = ray.get(run.carry_out.remote(halt_at=4))
    assert told[0] == EXPECTED[0]
    assert told[-1] == "BudgetExhausted"
    assert set(told[1:-1]) <= set(EXPECTED[1:5])
    assert set(ray.get(run.begun.remote())) <= {1, 2, 3, 4, 5}


def test_a_cancel_ends_it_within_seconds(run: Any) -> None:
    told = run.carry_out.remote(held=True)
    eventually(lambda: ray.get(run.begun.remote()).get(1))
    assert ray.get(run.cancel.remote()) < 15
    assert ray.get(told) == ["CancelledError"]
    eventually(lambda: not trial_pids())
