"""Ray Tune as what carries out trials: the only module that knows it.

A Tune trial is a light actor that asks the run's own actor to measure a number, and waits. What it
measures, and what came of it, stays in that process: Tune sees numbers and figures, never content.
A trial whose actor dies is started again and asks for the same number: the same measurement.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ray
import structlog
from ray import tune
from ray.tune.search import Searcher

from dspex_ray.optimization.budget import RunHalted
from dspex_ray.optimization.trials import Ask, Figures, Measure, MeasureDoor, Tell

log = structlog.get_logger()
_CPU = 0.001  #: of a trial: it only waits, and must not wait for a CPU
_DEATHS = 3  #: of a trial's actors, before it is measured without Tune
_AT_MOST = 8  #: actors of trials, each a process: what they wait for runs side by side elsewhere
_END_WITHIN_S = 20.0
_IDLE_S = 5.0
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # what is to be known of a run is in the database
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class Called(NamedTuple):
    """The actor whose `measure(number)` is asked, as `answered` answers."""

    name: str
    namespace: str


async def answered(door: MeasureDoor, number: int) -> dict[str, float | str]:
    """What a trial is told: the finite figures and a status; never raises for a measurement that
    failed, since Tune gives up the actor of a trial that does."""
    try:
        figures = await door.measured(number)
    except RunHalted as halt:
        return {"status": type(halt).__name__}
    except Exception as error:
        return {"status": type(error).__name__}
    finite = {name: figure for name, figure in figures.items() if math.isfinite(figure)}
    return {"status": "measured", **finite}


class TuneTrials:
    """`trials.TrialRunner`. Belongs to the event loop of the actor `called`, whose `door` it opens.

    A trial that Tune gives up, since its actors died, is measured without it; so are all that are
    left when Tune itself has failed.
    """

    def __init__(self, door: MeasureDoor, called: Called, folder: Path | None = None) -> None:
        """`folder`: where Tune keeps its files while a run lasts; None: the temporary folder."""
        self._door, self._called, self._folder = door, called, folder

    async def run(self, ask: Ask, measure: Measure, tell: Tell, at_once: int) -> None:
        loop, trials = asyncio.get_running_loop(), _Measuring(measure, self._door)
        queue = _Queue(lambda number: loop.call_soon_threadsafe(trials.rescue, number))
        folder = Path(tempfile.mkdtemp(prefix="dspex-tune-", dir=self._folder))
        threads = ThreadPoolExecutor(1, "dspex-tune")
        tuning: asyncio.Future[None] | None = None
        try:
            with self._door.opened(trials.measure):
                while numbers := ask():
                    trials.begin(numbers)
                    queue.offer(numbers)
                    tuning = tuning or loop.run_in_executor(
                        threads, _tuned, queue, self._called, folder, min(at_once, _AT_MOST)
                    )
                    await _generation(trials, tuning)
                    trials.tell(tell)
        finally:
            queue.close()
            trials.cancel()
            if tuning is not None:
                await asyncio.wait({tuning}, timeout=_END_WITHIN_S)
            threads.shutdown(wait=False)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class _Measuring:
    """The measurements of a generation, and what came of them. On the event loop."""

    def __init__(self, measure: Measure, door: MeasureDoor) -> None:
        self._measure, self._door = measure, door
        self._halt: RunHalted | None = None
        self._wanted: Sequence[int] = ()
        self._found: dict[int, Figures | Exception] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._rescues: set[asyncio.Future[Any]] = set()
        self._changed = asyncio.Event()

    def begin(self, numbers: Sequence[int]) -> None:
        self._wanted, self._found = tuple(numbers), {}

    async def measure(self, number: int) -> Figures:
        """Nothing begins once the run has halted."""
        if self._halt is not None:
            raise self._halt
        task = asyncio.ensure_future(self._measure(number))
        self._tasks.add(task)
        try:
            figures = await task
            self._found[number] = figures
            return figures
        except RunHalted as halt:
            self._halt = self._halt or halt
            raise
        except Exception as error:
            self._found[number] = error
            raise
        finally:
            self._tasks.discard(task)
            self._changed.set()

    def rescue(self, number: int) -> None:
        """Measures here what nobody asks for any more; what is under way is not begun again."""
        if number in self._wanted and number not in self._found:
            rescue = asyncio.ensure_future(answered(self._door, number))
            self._rescues.add(rescue)
            rescue.add_done_callback(self._rescues.discard)

    def rescue_all(self) -> None:
        for number in self._wanted:
            self.rescue(number)

    async def over(self) -> None:
        """Returns when all are measured; after a halt, when nothing is under way."""
        while len(self._found) < len(self._wanted) and not (self._halt and not self._tasks):
            self._changed.clear()
            await self._changed.wait()

    def tell(self, tell: Tell) -> None:
        for number in self._wanted:
            if number in self._found:
                tell(number, self._found[number])
        if self._halt is not None:
            raise self._halt

    def cancel(self) -> None:
        for task in (*self._tasks, *self._rescues):
            task.cancel()


async def _generation(trials: _Measuring, tuning: asyncio.Future[None]) -> None:
    over = asyncio.ensure_future(trials.over())
    try:
        await asyncio.wait({over, tuning}, return_when=asyncio.FIRST_COMPLETED)
        if tuning.done() and not over.done():
            error = tuning.exception()
            log.warning("tune_ended_early", error=type(error).__name__ if error else None)
            trials.rescue_all()
        await over
    finally:
        over.cancel()


class _Queue:
    """The numbers that Tune may take, between the event loop and Tune's thread."""

    def __init__(self, lost: Callable[[int], object]) -> None:
        """`lost` hears, in Tune's thread, of numbers that Tune has given up."""
        self._lost = lost
        self._changed = threading.Condition()
        self._open: deque[int] = deque()
        self._taken: dict[str, int] = {}
        self.closed = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """Tune writes down what it was given: of this nothing is worth keeping."""
        return _no_queue, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Queue:
        return self

    def offer(self, numbers: Sequence[int]) -> None:
        with self._changed:
            self._open.extend(numbers)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._open.clear()
            self._changed.notify_all()

    def take(self, trial_id: str) -> int | None:
        """The next number; None: none now. While no trial is under way it waits for one: Tune
        would sleep for a second."""
        with self._changed:
            if not self._taken:
                self._changed.wait_for(lambda: self._open or self.closed, _IDLE_S)
            if not self._open:
                return None
            self._taken[trial_id] = self._open.popleft()
            return self._taken[trial_id]

    def give_back(self, trial_id: str, *, failed: bool) -> None:
        with self._changed:
            number = self._taken.pop(trial_id, None)
        if failed and number is not None:
            self._lost(number)


def _no_queue() -> _Queue:
    queue = _Queue(lambda number: None)
    queue.close()
    return queue


class _Numbers(Searcher):  # type: ignore[misc] # Ray's classes are Any to mypy
    """Suggests the numbers of a queue."""

    def __init__(self, queue: _Queue) -> None:
        super().__init__()
        self._queue = queue

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        number = self._queue.take(trial_id)
        if number is not None:
            return {"number": number}
        return Searcher.FINISHED if self._queue.closed else None

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        self._queue.give_back(trial_id, failed=error)

    def save(self, checkpoint_path: str) -> None:
        """There is nothing to save: a run that starts again asks anew."""

    def restore(self, checkpoint_path: str) -> None:
        """Never."""


class _Closed(tune.Stopper):  # type: ignore[misc]
    """Stops all trials once the queue is closed."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._queue.closed


class MeasuredTrial(tune.Trainable):  # type: ignore[misc]
    """One number, measured by the run's own actor; then the next one in the same process."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": _CPU}])

    def setup(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._run = ray.get_actor(config["actor"], namespace=config["namespace"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._number = int(new_config["number"])
        return True

    def step(self) -> dict[str, Any]:
        try:
            found = ray.get(self._run.measure.remote(self._number))
        except Exception as error:  # the run is over; a raise would cost this actor, too
            found = {"status": type(error).__name__}
        return {**found, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """There is no state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """There is none."""


def _tuned(queue: _Queue, called: Called, folder: Path, at_once: int) -> None:
    """Until the queue is closed. In a thread of its own."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - Tune is told no other way
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses its result files
    tune.Tuner(
        MeasuredTrial,
        param_space={"actor": called.name, "namespace": called.namespace},
        tune_config=tune.TuneConfig(
            search_alg=_Numbers(queue),
            num_samples=10**9,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            stop=_Closed(queue),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_DEATHS),
            verbose=0,
        ),
    ).fit()
