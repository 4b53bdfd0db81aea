"""Versions that say which model answers, over real sockets: who is called, and who comes after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dspex_ray.core.ids import VersionId, new_id
from dspex_ray.models.model import Model, ModelStatus
from dspex_ray.programs.artifacts import artifact_hash, artifact_payload
from dspex_ray.programs.configure import apply_configuration
from dspex_ray.programs.model import ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.routing.model import Loss, RoutingStrategy
from dspex_ray.serving.snapshot import ServedVersion
from dspex_ray.testing.data_plane import DataPlane
from dspex_ray.testing.provider_simulator import Fault, Prompt, ProviderSimulator
from dspex_ray.traces.model import ExecutionRecord

SAMPLES = "dspex_ray.testing.sample_programs"
SIGNATURE = "question -> answer"


def says(word: str) -> Any:
    def answer(prompt: Prompt) -> str:
        return json.dumps(
            {"draft": word, "reasoning": "r", "answer": word, "sure": True, "grounds": "g"}
        )

    return answer


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    with DataPlane(tmp_path / "spool") as started:
        yield started


@pytest.fixture
def small(plane: DataPlane) -> Iterator[ProviderSimulator]:
    with ProviderSimulator(says("small")) as simulator:
        plane.add_model("small", simulator.url)
        yield simulator


@pytest.fixture
def large(plane: DataPlane) -> Iterator[ProviderSimulator]:
    with ProviderSimulator(says("large")) as simulator:
        plane.add_model("large", simulator.url)
        yield simulator


def model(plane: DataPlane, name: str) -> Model:
    return next(m for m in plane.configuration.snapshot.models.values() if m.name == name)


def source(*, module: dict[str, Any] | None = None, **more: Any) -> ProgramSource:
    written = {"signature": SIGNATURE, **(module or {})}
    return ProgramSource(module=written, adapter="json", **more)


def predict(plane: DataPlane, reference: str, stream: bool = False) -> httpx.Response:
    return httpx.post(
        f"{plane.url}/v1/programs/{reference}/predict",
        json={"inputs": {"question": "why?"}, "stream": stream},
        headers={"authorization": f"Bearer {plane.key}"},
        timeout=20,
    )


def answer(plane: DataPlane, reference: str) -> str:
    response = predict(plane, reference)
    assert response.status_code == 200, response.text
    return str(response.json()["outputs"]["answer"])


def executions(plane: DataPlane) -> list[ExecutionRecord]:
    return [record for record in plane.records() if isinstance(record, ExecutionRecord)]


def deprecate(plane: DataPlane, name: str) -> None:
    gone = model(plane, name).model_copy(update={"status": ModelStatus.DEPRECATED})
    plane.change(models={**plane.configuration.snapshot.models, gone.id: gone})


def test_each_version_calls_the_model_that_it_pins(
    plane: DataPlane, small: ProviderSimulator, large: ProviderSimulator
) -> None:
    program = plane.add_program(
        "qa", source(module={"model": "small"}), source(models={"": "large"}), source()
    )
    assert [answer(plane, f"qa@{number}") for number in (1, 2)] == ["small", "large"]
    assert predict(plane, "qa@3").status_code == 409  # it pins none, and none is assigned
    plane.assign(program, model(plane, "small"))
    assert [answer(plane, f"qa@{number}") for number in (1, 2, 3)] == ["small", "large", "small"]
    assert "large" in predict(plane, "qa@2", stream=True).text
    calls = [call for record in executions(plane) for call in record.lm_calls]
    pinned = [call for call in calls if call.chosen == "large"]
    assert [call.strategy for call in pinned] == [RoutingStrategy.PRIMARY] * 3
    assert {attempt.assignment_id for call in pinned for attempt in call.attempts} == {None}


def test_a_configuration_makes_a_version_of_another_model(
    plane: DataPlane, small: ProviderSimulator, large: ProviderSimulator
) -> None:
    first = source(models={"": "small"})
    program = plane.add_program("qa", first)
    artifact = resolve_source(first, allowed_packages=())
    configured = apply_configuration(artifact, {"model": "large"})
    number_2 = ServedVersion(
        VersionId(new_id()), 2, artifact_hash(configured), artifact_payload(configured)
    )
    held = plane.configuration.snapshot.programs
    key = (program.project_id, "qa")
    versions = {**held[key].versions, 2: number_2}
    plane.change(programs={**held, key: replace(held[key], versions=versions)})
    assert [answer(plane, f"qa@{number}") for number in (1, 2)] == ["small", "large"]


def test_predictors_of_a_class_have_models_of_their_own(
    plane: DataPlane, small: ProviderSimulator, large: ProviderSimulator
) -> None:
    two = ProgramSource(
        import_path=f"{SAMPLES}:TwoSteps",
        adapter="json",
        models={"": "small", "judge.predict": "large"},
    )
    plane.add_program("two", two)
    assert predict(plane, "two").status_code == 200
    (record,) = executions(plane)
    assert {call.predictor: call.answered_by for call in record.lm_calls} == {
        "draft": "small",
        "judge.predict": "large",
    }


def test_a_failing_pinned_model_falls_back_to_what_is_assigned(
    plane: DataPlane, small: ProviderSimulator, large: ProviderSimulator
) -> None:
    program = plane.add_program("qa", source(models={"": "small"}))
    assignment = plane.assign(program, model(plane, "large"))
    small.always(Fault.SERVER_ERROR)
    assert answer(plane, "qa") == "large"
    (call,) = executions(plane)[0].lm_calls
    assert (call.chosen, call.answered_by, call.fallback) == ("small", "large", True)
    assert call.attempts[-1].assignment_id == assignment.id


@pytest.mark.parametrize("how", ["deprecated", "gone"])
def test_a_pinned_model_that_cannot_be_called_is_passed_over(
    plane: DataPlane, small: ProviderSimulator, large: ProviderSimulator, how: str
) -> None:
    program = plane.add_program("qa", source(models={"": "small"}))
    if how == "deprecated":
        deprecate(plane, "small")
    else:
        held = model(plane, "large")
        plane.change(models={held.id: held}, model_ids={(held.project_id, "large"): held.id})
    none = predict(plane, "qa")
    assert none.status_code == 503, none.text
    assert none.json()["error"]["message"].startswith("No available models: small is ")
    plane.assign(program, model(plane, "large"))
    assert answer(plane, "qa") == "large"
    (call,) = executions(plane)[-1].lm_calls
    assert call.answered_by == "large"
    if how == "deprecated":
        assert [(lost.model, lost.reason) for lost in call.losers] == [
            ("small", Loss.NOT_AVAILABLE)
        ]
