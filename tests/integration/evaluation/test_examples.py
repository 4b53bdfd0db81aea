"""Examples in a process that calls models, over real sockets: scored, priced, recorded, and never
mixed up with those of another program."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.errors import Conflict
from dspex_ray.core.ids import new_id
from dspex_ray.datasets.model import Example
from dspex_ray.evaluation.model import ExampleResult, MetricSpec
from dspex_ray.evaluation.work import Item, Target, Work, pinned
from dspex_ray.models.model import Model
from dspex_ray.programs.model import CapturePolicy, Program, ProgramSource
from dspex_ray.routing.breaker import Breakers
from dspex_ray.routing.limits import Limits
from dspex_ray.routing.router import Router
from dspex_ray.routing.rules import direct
from dspex_ray.serving.examples import Examples
from dspex_ray.serving.executor import Executor
from dspex_ray.serving.metering import TimedThreads
from dspex_ray.serving.scoring import Calling
from dspex_ray.settings import RoutingSettings
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.testing.provider_wires import Answer
from dspex_ray.traces.model import ExecutionRecord, ExecutionStatus, Source

SAMPLES = "dspex_ray.testing.sample_programs"
PACKAGES = ("dspy", "dspex_ray.testing")
ECHO = ProgramSource(signature="question -> answer", module={"type": "predict"})
CLASS = ProgramSource(import_path=f"{SAMPLES}:TwoSteps")
EXACT = MetricSpec(metric="exact_match", field="answer", label="exact_match")


def says(word: str) -> Any:
    """A provider that answers every field with its own word, or judges with a score."""

    def answer(prompt: Prompt) -> Answer:
        fields = {"draft": word, "reasoning": "r", "answer": word, "sure": "true", "grounds": "g"}
        asked = prompt.last.partition("starting with the field")[2]
        named = [name for name in (*fields, "score") if f"`[[ ## {name} ## ]]`" in asked]
        told = "".join(f"[[ ## {n} ## ]]\n{fields.get(n, '0.5')}\n\n" for n in named)
        return f"{told}[[ ## completed ## ]]"

    return answer


@dataclass
class House:
    """A data plane's parts, and what runs examples on them."""

    plane: DataPlane
    examples: Examples
    one: ProviderSimulator
    two: ProviderSimulator

    def program(self, name: str, source: ProgramSource, model: Model, **fields: Any) -> Program:
        program = self.plane.add_program(name, source, **fields)
        self.plane.assign(program, model)
        return program

    def work(self, program: Program, *metrics: MetricSpec, **fields: Any) -> Work:
        snapshot = self.plane.configuration.snapshot
        version = snapshot.served(program.project_id, program.name).versions[1]
        rows = snapshot.assignments[program.id]
        models = tuple(pinned(snapshot.models[row.model_id]) for row in rows)
        target = Target(
            program=program,
            version_id=version.id,
            version=1,
            artifact=version.artifact,
            hash=version.hash,
            assignments=rows,
            models=models,
        )
        return Work(
            id=new_id(),
            source=Source.EVALUATION,
            target=target,
            metrics=metrics or (EXACT,),
            **fields,
        )

    def records(self) -> list[ExecutionRecord]:
        return [record for record in self.plane.records() if isinstance(record, ExecutionRecord)]


@pytest.fixture
def providers() -> Iterator[tuple[ProviderSimulator, ProviderSimulator]]:
    with ProviderSimulator(says("one")) as one, ProviderSimulator(says("two")) as two:
        yield one, two


@pytest.fixture
async def house(
    tmp_path: Path, providers: tuple[ProviderSimulator, ProviderSimulator]
) -> AsyncIterator[House]:
    plane, clock = DataPlane(tmp_path / "spool"), SystemClock()
    threads = TimedThreads(8, "program", clock, lambda seconds: None)
    routing = RoutingSettings(retries=0)
    router = Router(
        routing,
        clock,
        random.Random(1),
        plane.engines,
        Breakers(routing),
        Limits(),
        lambda model_id: None,
    )
    calling = Calling(plane.configuration, router, threads, clock)
    examples = Examples(calling, Executor(PACKAGES), plane.spool, allowed_packages=PACKAGES)
    yield House(plane, examples, *providers)
    await plane.engines.aclose()
    threads.shutdown()


def item(number: int = 0, **values: Any) -> Item:
    values = values or {"question": f"q{number}", "answer": "one"}
    return Item(example=Example(hash=content_hash(values), values=values, number=number))


async def run(house: House, work: Work, *items: Item) -> list[ExampleResult]:
    await house.examples.load(work)
    key = str(work.id)
    return list(await asyncio.gather(*(house.examples.evaluate(key, one) for one in items)))


async def test_a_run_is_scored_priced_and_recorded(house: House) -> None:
    model = house.plane.add_model("m", house.one.url)
    program = house.program("p", ECHO, model, capture=CapturePolicy(mode="full"))
    work = house.work(program, seed=7)
    (result,) = await run(house, work, item(3))
    (record,) = house.records()
    assert (result.scores, result.errors) == ({"exact_match": 1.0}, ())
    assert result.cost_usd == record.lm_calls[0].attempts[0].cost_usd
    assert result.cost_usd is not None
    assert (result.execution_id, result.latency_ms) == (record.id, record.duration_ms)
    assert (record.source, record.status) == (Source.EVALUATION, ExecutionStatus.COMPLETED)
    assert (record.rollout, record.step, record.seed) == (str(work.id), 3, 7)
    assert (record.program, record.version, record.endpoint) == ("p", 1, "evaluation")
    assert (record.inputs, record.outputs) == ({"question": "q3"}, {"answer": "one"})


async def test_two_programs_at_once_never_see_each_others_model(house: House) -> None:
    """Predictors of a class run in threads, those of a module on the loop; both at once."""
    first = house.plane.add_model("first", house.one.url)
    second = house.plane.add_model("second", house.two.url)
    works = [
        house.work(house.program(f"{kind}-{model.name}", source, model))
        for kind, source in (("module", ECHO), ("class", CLASS))
        for model in (first, second)
    ]
    found = await asyncio.gather(
        *(run(house, work, *(item(number) for number in range(15))) for work in works)
    )
    scores = [{result.scores["exact_match"] for result in results} for results in found]
    assert [result.errors for results in found for result in results] == [()] * 60
    assert scores == [{1.0}, {0.0}, {1.0}, {0.0}]  # `one` is expected
    for record in house.records():
        wanted = (record.program or "").partition("-")[2]
        assert {call.answered_by for call in record.lm_calls} == {wanted}


async def test_a_pinned_model_answers_and_what_is_assigned_comes_after_it(house: House) -> None:
    model = house.plane.add_model("m", house.two.url)
    mine = house.plane.add_model("mine", house.one.url)
    work = house.work(house.program("p", ECHO, model))
    pins = {"pins": (direct(mine, mine.created_at),), "models": (pinned(mine), *work.target.models)}
    work = work.model_copy(update={"target": work.target.model_copy(update=pins)})
    (result,) = await run(house, work, item())
    house.one.always(Fault.SERVER_ERROR)
    (fallen,) = await run(house, work, item(1))
    assert [one.scores["exact_match"] for one in (result, fallen)] == [1.0, 0.0]
    calls = [record.lm_calls[0] for record in house.records()]
    assert [(call.chosen, call.answered_by) for call in calls] == [("mine", "mine"), ("mine", "m")]


async def test_a_judge_has_a_model_and_a_record_of_its_own(house: House) -> None:
    model = house.plane.add_model("m", house.one.url)
    judge = house.plane.add_model("judge", house.two.url, price_version=3)
    options = {"rubric": "Any answer is half good.", "model": "judge"}
    spec = MetricSpec(metric="llm_judge", options=options)
    program = house.program("p", ECHO, model)
    work = house.work(program, EXACT, spec, metric_models=(pinned(judge),))
    (result,) = await run(house, work, item())
    assert result.scores == {"exact_match": 1.0, "llm_judge": 0.5}
    run_record, scoring = sorted(house.records(), key=lambda record: record.endpoint)
    assert (scoring.endpoint, scoring.program, scoring.tags) == ("metrics", None, {"program": "p"})
    (call,) = scoring.lm_calls
    assert (call.answered_by, run_record.lm_calls[0].answered_by) == ("judge", "m")
    assert result.metric_costs == {"llm_judge": call.attempts[0].cost_usd}


async def test_failing_examples_are_results(house: House) -> None:
    model = house.plane.add_model("m", house.one.url)
    work = house.work(house.program("p", ECHO, model))
    house.one.script([Fault.SERVER_ERROR])
    (failed,) = await run(house, work, item())
    (unfit,) = await run(house, work, item(1, answer="one"))
    (good,) = await run(house, work, item(2))
    assert [error.code for error in failed.errors] == ["provider_down"]
    assert [error.message for error in unfit.errors] == ["Missing required inputs: question"]
    assert [result.scores["exact_match"] for result in (failed, unfit, good)] == [0.0, 0.0, 1.0]
    assert unfit.cost_usd == Decimal(0)
    statuses = [record.status for record in house.records()]
    assert statuses == [ExecutionStatus.FAILED, ExecutionStatus.FAILED, ExecutionStatus.COMPLETED]


async def test_an_example_ends_at_its_deadline_and_a_cancelled_one_at_once(house: House) -> None:
    model = house.plane.add_model("m", house.one.url)
    work = house.work(house.program("p", ECHO, model), timeout_s=0.3)
    house.one.script([Fault.HANG])
    (late,) = await run(house, work, item())
    assert [error.code for error in late.errors] == ["deadline_exceeded"]
    slow = house.work(house.program("class", CLASS, model), timeout_s=30)
    house.one.script([Fault.HANG])
    gone = asyncio.create_task(run(house, slow, item()))
    served = house.one.served
    while house.one.served == served:
        await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert house.records()[-1].status is ExecutionStatus.CANCELLED


async def test_a_model_that_changes_meanwhile_ends_the_work(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex_ray.serving.examples._SAME_WITHIN_S", 0.2)
    model = house.plane.add_model("m", house.one.url)
    work = house.work(house.program("p", ECHO, model))
    await run(house, work, item())
    changed = model.model_copy(update={"model_name": "another", "revision": 2})
    house.plane.change(models={model.id: changed})
    with pytest.raises(Conflict, match="model 'm' has changed"):
        await house.examples.evaluate(str(work.id), item(1))
    with pytest.raises(Conflict, match="model 'm' has changed"):
        await run(house, house.work(work.target.program).model_copy(update={"target": work.target}))


async def test_embeddings_of_a_registered_model_are_paid_for(house: House) -> None:
    model = house.plane.add_model("m", house.one.url)
    vectors = house.plane.add_model("vectors", house.two.url)
    spec = MetricSpec(metric="semantic_similarity", options={"model": "vectors"})
    work = house.work(house.program("p", ECHO, model), spec, metric_models=(pinned(vectors),))
    house.two.script([Fault.SERVER_ERROR])  # tried again
    (result,) = await run(house, work, item(question="q", answer="eno"))
    assert result.scores == {"semantic_similarity": pytest.approx(1.0)}
    price = vectors.price.prompt_usd_per_token
    assert price is not None
    assert result.metric_costs == {"semantic_similarity": 2 * price}
    (scoring,) = [record for record in house.records() if record.endpoint == "metrics"]
    assert scoring.lm_calls[0].answered_by == "vectors"
    house.two.script([Fault.UNAUTHORIZED])
    (refused,) = await run(house, work, item(1, question="q", answer="eno"))
    assert refused.errors[0].message == (
        "metric 'semantic_similarity': model 'vectors' does not embed: its provider answers 401"
    )
