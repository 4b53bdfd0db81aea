from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from dspex_ray.core.errors import AlreadyExists, Invalid
from dspex_ray.optimization.model import Needs, Outcome, Problem
from dspex_ray.optimization.record import Record
from dspex_ray.optimization.registry import GROUP, Registry, builtin_registry
from dspex_ray.optimization.rules import OptimizerParameters
from dspex_ray.optimization.workbench import Workbench, local_workbench
from dspex_ray.testing.fake_lm import fake_lm
from tests.unit.optimization.parts import engine, examples, problem, program


class Shy(OptimizerParameters):
    patience: int


class DoesNothing:
    name = "DoesNothing"
    aliases = ("Nop",)
    description = "Hands back what it got."
    source = "a package"
    needs = Needs()
    parameters = Shy
    refused: str | None = None

    async def optimize(self, problem: Problem, parameters: Shy, bench: Workbench) -> Outcome:
        return Record(problem, bench.ledger).outcome(facts={"patience": parameters.patience})


class NotOne:
    name = "NotOne"


HERE = "tests.unit.optimization.test_registry"


def bench(case: Problem) -> Workbench:
    return local_workbench(case, fake_lm(engine()))


def test_the_built_in_optimizers_and_their_aliases() -> None:
    registry = builtin_registry()
    assert registry.names() == (
        "AdvancedBootstrap",
        "BayesianOptimizer",
        "BootstrapFewShot",
        "BootstrapFewShotWithOptuna",
        "BootstrapFewShotWithRandomSearch",
        "COPRO",
        "DspexSearch",
        "EnhancedSIMBA",
        "GEPA",
        "KNNFewShot",
        "LabeledFewShot",
        "MIPROv2",
        "MultiObjective",
        "SIMBA",
    )
    assert registry.get("MIPRO") is registry.get("MIPROv2")


def test_information_says_types_defaults_and_ranges() -> None:
    found = builtin_registry().info("AdvancedBootstrap")
    assert [p.name for p in found.parameters][:4] == [
        "max_demos",
        "quality_threshold",
        "diversity_factor",
        "adaptive_sampling",
    ]
    assert [p.default for p in found.parameters][:4] == [8, 0.8, 0.3, True]
    threshold = found.parameters[1]
    assert (threshold.type, threshold.required) == ("number", False)
    assert (threshold.minimum, threshold.maximum) == (0, 1)
    assert found.needs == Needs(train=2, labels=True, embedding_model=True)
    mipro = {p.name: p for p in builtin_registry().info("MIPRO").parameters}
    assert mipro["auto"].choices == ("light", "medium", "heavy")
    assert (mipro["num_trials"].type, mipro["num_trials"].minimum) == ("integer | null", 1)
    kinds = {p.name: p for p in builtin_registry().info("DspexSearch").parameters}
    assert (kinds["module_types"].type, kinds["module_types"].default) == ("array", [])


@pytest.mark.parametrize("name", builtin_registry().names())
def test_every_parameter_has_a_type(name: str) -> None:
    found = builtin_registry().info(name)
    assert found.description
    assert all(p.type and "any" not in p.type for p in found.parameters)


async def test_an_unknown_optimizer_is_named_with_the_known_ones() -> None:
    case = problem()
    with pytest.raises(Invalid, match=r"^Unknown optimizer: Magic \(known: Adv") as refused:
        await builtin_registry().optimize("Magic", case, bench(case))
    assert (refused.value.field, refused.value.rule) == ("optimizer", "known optimizer")


@pytest.mark.parametrize(
    ("name", "given", "field", "rule"),
    [
        ("BootstrapFewShot", {"demos": 3}, "parameters.demos", "known parameter"),
        ("BootstrapFewShot", {"max_rounds": 0}, "parameters.max_rounds", "greater_than_equal"),
        ("COPRO", {"breadth": "wide"}, "parameters.breadth", "int_parsing"),
        ("DspexSearch", {"module_types": ["rlm"]}, "parameters.module_types.0", "enum"),
        ("MIPROv2", {"num_trials": 3}, "parameters", "value_error"),
        ("MIPROv2", {"max_bootstrapped_demos": 0}, "parameters", "value_error"),
        ("MIPROv2", {"minibatch_size": 13}, "parameters.minibatch_size", "at most 12"),
        ("GEPA", {"auto": "light", "max_full_evals": 1}, "parameters", "value_error"),
        ("SIMBA", {"bsize": 17}, "parameters.bsize", "at most 16"),
        ("KNNFewShot", {}, "optimizer", "saved as data"),
    ],
)
async def test_wrong_parameters_are_named_before_a_model_is_called(
    name: str, given: dict[str, Any], field: str, rule: str
) -> None:
    case, fake = problem(), engine()
    with pytest.raises(Invalid) as refused:
        await builtin_registry().optimize(name, case, local_workbench(case, fake_lm(fake)), given)
    assert (refused.value.field, refused.value.rule) == (field, rule)
    assert not fake.requests


@pytest.mark.parametrize("limit", ["usd", "lm_calls", "tokens", "seconds"])
async def test_a_budget_of_0_is_refused(limit: str) -> None:
    budget: dict[str, Any] = {limit: 0}
    case = problem(**budget)
    with pytest.raises(Invalid, match=f"budget.{limit} is 0") as refused:
        await builtin_registry().optimize("DspexSearch", case, bench(case))
    assert (refused.value.field, refused.value.rule) == (f"budget.{limit}", "above 0")


@pytest.mark.parametrize("name", [n for n in builtin_registry().names() if n != "KNNFewShot"])
async def test_an_empty_dataset_is_refused(name: str) -> None:
    case = problem(train=0)
    given = {"bsize": 1} if name == "SIMBA" else {}
    with pytest.raises(Invalid, match=r"needs at least \d train examples, not 0") as refused:
        await builtin_registry().optimize(name, case, bench(case), given)
    assert refused.value.field == "train"


async def test_examples_without_what_is_expected_are_refused_where_it_is_needed() -> None:
    bare = examples(3)[0].model_copy(update={"values": {"text": "goal 1"}})
    case = Problem(artifact=program(), train=(bare, bare), metric=problem().metric)
    with pytest.raises(Invalid, match="needs train examples that hold topic") as refused:
        await builtin_registry().optimize("LabeledFewShot", case, bench(case))
    assert (refused.value.field, refused.value.rule) == ("train", "expected outputs")


async def test_plug_ins_are_found_by_entry_point_and_compile_is_optimize() -> None:
    registry = Registry(plug_ins=[EntryPoint("DoesNothing", f"{HERE}:DoesNothing", GROUP)])
    assert registry.names() == ("DoesNothing",)
    case = problem()
    outcome = await registry.compile("DoesNothing", case, bench(case), {"patience": 3})
    assert outcome.facts == {"patience": 3}
    assert outcome.best.artifact == case.artifact
    with pytest.raises(Invalid) as refused:
        await registry.optimize("DoesNothing", case, bench(case))
    assert (refused.value.field, refused.value.rule) == ("parameters.patience", "missing")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (f"{HERE}:NotOne", "raised AttributeError"),
        (f"{HERE}:Missing", "raised AttributeError"),
        ("no_such_package:Thing", "raised ModuleNotFoundError"),
    ],
)
def test_a_broken_plug_in_breaks_itself_only(value: str, why: str) -> None:
    registry = Registry([DoesNothing()], [EntryPoint("NotOne", value, GROUP)])
    with pytest.raises(Invalid, match=why) as refused:
        registry.get("NotOne")
    assert refused.value.rule == "plug-in"
    assert registry.get("Nop").name == "DoesNothing"


def test_names_and_aliases_are_taken_once() -> None:
    with pytest.raises(AlreadyExists, match="'DoesNothing'"):
        Registry([DoesNothing(), DoesNothing()])
    with pytest.raises(AlreadyExists, match="'Nop'"):
        Registry([DoesNothing()], [EntryPoint("Nop", f"{HERE}:DoesNothing", GROUP)])
