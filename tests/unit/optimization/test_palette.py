"""What a search may put into a program, and how new instructions and demo sets are made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.minting import NONE, OWN, DemoSets, Instructions
from dspex_ray.optimization.model import Problem
from dspex_ray.optimization.palette import Palette, PaletteParameters, SettingsParameters
from dspex_ray.optimization.workbench import Workbench, local_workbench
from dspex_ray.programs.model import Artifact, ModulesArtifact, ModuleType, ProgramSource
from dspex_ray.programs.source import resolve_source
from dspex_ray.testing.fake_lm import FakeEngine, fake_lm
from dspex_ray.variables import sampling
from dspex_ray.variables.model import Space
from dspex_ray.variables.rules import check
from tests.unit.optimization.parts import SAMPLES, TOPICS, engine, examples, problem, program


def bench(case: Problem, writer: FakeEngine | None = None) -> Workbench:
    return local_workbench(case, fake_lm(engine()), prompt_lm=writer and fake_lm(writer))


def palette(case: Problem, given: SettingsParameters | None = None, **more: Any) -> Palette:
    return Palette(case, given or PaletteParameters(max_demos=4, demo_sets=3), bench(case, **more))


def choices(space: Space, path: str) -> tuple[Any, ...]:
    variable: Any = space.variables[path]
    return tuple(variable.choices)


def main(artifact: Artifact) -> Any:
    assert isinstance(artifact, ModulesArtifact)
    return artifact.modules["main"]


def two_steps() -> Artifact:
    source = ProgramSource(
        import_path=f"{SAMPLES}:TwoSteps", signature="question: str, hint: str -> answer: str"
    )
    return resolve_source(source, allowed_packages=("dspex_ray.testing",))


async def test_every_choice_is_a_program_and_the_start_is_the_program_as_it_is() -> None:
    case = problem()
    made = palette(case, PaletteParameters(max_demos=4, demo_sets=3, models=("a", "b")))
    assert made.growing == ("instructions", "demos")
    assert choices(made.space, "demos") == (OWN, "d1", "d2", "d3")
    assert choices(made.space, "model") == ("a", "b")
    assert check(made.space, made.start).valid
    assert await made.program(made.start) == case.artifact
    assert made.shown(made.start) == {
        "adapter": "minimal",
        "module": "predict",
        "instructions": OWN,
        "demos": OWN,
    }
    for choice in sampling.random(made.space, 20, seed=1):
        found = await made.program(choice)
        assert found.adapter.value == choice["adapter"]
        assert found.models == {"": choice["model"]}
        module = main(found)
        assert (module.type.value, module.config.temperature) == (
            choice["module"],
            choice["temperature"],
        )
        assert len(module.demos) == (0 if choice["demos"] == OWN else 4)
        shown = [demo["text"] for demo in module.demos]
        by_hash = {example.hash: example.values["text"] for example in case.train}
        assert shown == [by_hash[key] for key in made.demos(choice)]
        assert (module.signature.instructions == "Name the topic.") == (
            choice["instructions"] == OWN
        )


async def test_own_demos_can_be_kept_or_left_out() -> None:
    demo = {"text": "goal 1", "topic": "sports"}
    case = problem(program(demos=[demo]))
    made = palette(case)
    assert choices(made.space, "demos") == (OWN, NONE, "d1", "d2", "d3")
    kept = await made.program({**made.start, "temperature": 0.5})
    assert main(kept).demos == (demo,)
    bare = await made.program({**made.start, "demos": NONE})
    assert main(bare).demos == ()


async def test_predictors_of_a_class_have_their_own_instructions() -> None:
    case = Problem(
        artifact=two_steps(),
        train=examples(4),
        metric=problem().metric,
        allowed_packages=("dspex_ray.testing",),
    )
    made = palette(case)
    assert made.growing == ("draft.instructions", "judge.predict.instructions")
    told = choices(made.space, "draft.instructions")[1]
    found = await made.program({**made.start, "draft.instructions": told})
    assert found.state["draft"] != case.artifact.state["draft"]  # type: ignore[union-attr]
    assert found.state["judge.predict"] == case.artifact.state["judge.predict"]  # type: ignore[union-attr]


async def test_settings_alone_leave_texts_alone() -> None:
    case = problem()
    made = palette(case, SettingsParameters(module_types=(ModuleType.PREDICT,)))
    assert made.growing == ()
    assert choices(made.space, "module") == ("predict",)
    assert not {"instructions", "demos"} & set(made.space.variables)


def test_what_the_space_says_of_texts_is_the_palettes_to_say() -> None:
    written = {
        "instructions": {"choices": ["long", "short"]},
        "adapter": {"choices": ["json"]},
    }
    space = Space.model_validate({"variables": written})
    made = palette(problem(), PaletteParameters(space=space))
    assert choices(made.space, "instructions")[0] == OWN
    assert choices(made.space, "adapter") == ("json",)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"colour": {"choices": ["red"]}}, "changes nothing of this program"),
        ({"adapter": {"choices": ["morse"]}}, "adapter is 'morse'"),
        ({"temperature": {"kind": "float", "low": 0, "high": 9}}, "cannot be temperature"),
    ],
)
def test_a_space_that_cannot_be_applied_is_refused(variables: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        palette(problem(), PaletteParameters(space=Space.model_validate({"variables": variables})))


async def test_proposals_join_the_instructions_when_a_prompt_model_is_given() -> None:
    case, writer = problem(), engine("teacher")
    made = palette(case, writer=writer)
    before = choices(made.space, "instructions")
    await made.propose()
    after = choices(made.space, "instructions")
    assert after[: len(before)] == before
    assert len(after) > len(before)
    alone = palette(case)
    await alone.propose()
    assert choices(alone.space, "instructions") == before


# --- minting -------------------------------------------------------------------------------------


def instructions(writer: FakeEngine | None = None) -> Instructions:
    case = problem()
    return Instructions(case, bench(case, writer))


async def test_texts_are_bred_sentence_by_sentence() -> None:
    pool = instructions()
    one, other = pool.named("Read it. Think."), pool.named("Be short. Answer now.")
    assert (one, other, pool.named("Read it. Think.")) == ("i1", "i2", "i1")
    child = pool.mint("crossover", (one, other), "Own.")
    assert child == "i3"
    assert await pool.text(child) == "Read it. Answer now."
    assert pool.mint("crossover", (one, other), "Own.") == child
    altered = pool.mint("mutation", (OWN,), "Own.")
    assert altered == "i4"
    assert (await pool.text(altered)).startswith("Own. ")
    assert pool.mint("crossover", (OWN, OWN), "Own.") == OWN


async def test_a_prompt_model_writes_a_planned_text_once_and_only_when_it_is_needed() -> None:
    writer = engine("teacher")
    pool = instructions(writer)
    child = pool.mint("crossover", (pool.named("Read it."), OWN), "Own.")
    assert child is not None
    assert writer.requests == []
    texts = await asyncio.gather(pool.text(child), pool.text(child))
    assert len(writer.requests) == 1
    assert texts[0] == texts[1]
    assert texts[0].startswith("teacher proposed_instruction")


async def test_a_model_that_writes_none_leaves_the_sentences() -> None:
    pool = instructions(FakeEngine(lambda request: "no JSON"))
    child = pool.mint("crossover", (pool.named("Read it. Think."), OWN), "Own.")
    assert child is not None
    assert await pool.text(child) == "Read it. Own."


def demo_sets() -> DemoSets:
    train = examples(16)
    labels = {example.hash: example.values["topic"] for example in train}
    return DemoSets(0, train, labels, 4, ["main"])


def test_sets_are_bred_of_both_parents_and_stay_balanced() -> None:
    pool, train = demo_sets(), examples(16)
    one, other = pool.named(train[:4]), pool.named(train[4:8])
    child = pool.mint("crossover", (one, other))
    assert child is not None
    assert child not in (one, other)
    assert set(pool.hashes(child)) <= {e.hash for e in train[:8]}
    assert sorted(values["topic"] for values in pool.values(child)) == sorted(TOPICS)


def test_a_mutated_set_changes_some_places_for_others_of_the_label() -> None:
    pool, train = demo_sets(), examples(16)
    one = pool.named(train[:4])
    child = pool.mint("mutation", (one,))
    assert child is not None
    pairs = list(zip(pool.values(one), pool.values(child), strict=True))
    assert [old["topic"] for old, _ in pairs] == [new["topic"] for _, new in pairs]
    assert sum(old != new for old, new in pairs) == 1
    fresh = pool.mint("mutation", (OWN,))
    assert fresh is not None
    assert sorted(values["topic"] for values in pool.values(fresh)) == sorted(TOPICS)


def test_what_cannot_be_bred_is_none_and_what_is_known_keeps_its_name() -> None:
    pool, train = demo_sets(), examples(16)
    assert pool.mint("crossover", (OWN, OWN)) is None
    assert pool.named(()) == NONE
    assert pool.named(train[:4]) == pool.named(train[:4]) == "d1"
    again = demo_sets()
    again.named(train[:4])
    assert again.mint("mutation", ("d1",)) == pool.mint("mutation", ("d1",))
    assert again.hashes("d2") == pool.hashes("d2")
