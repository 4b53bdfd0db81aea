"""What a search may put into a program: the settings of a space, instructions and demo sets by
name; and the program with a choice of these in it.

A choice is a configuration of `Palette.space`: `instructions` and `demos` (`draft.demos` of one
predictor among several) are names of texts and sets; `own` leaves the program's as they are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from dspex_ray.core.noun import Name
from dspex_ray.optimization.demos import drawn_set, labels_of, set_sizes, taught, usable
from dspex_ray.optimization.edits import (
    Predictor,
    predictors_of,
    with_demos,
    with_instructions,
)
from dspex_ray.optimization.minting import OWN, DemoSets, Instructions
from dspex_ray.optimization.model import Problem
from dspex_ray.optimization.proposals import plain_wordings, proposed_wordings
from dspex_ray.optimization.rules import OptimizerParameters
from dspex_ray.optimization.variation import Kind, repaired
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.configure import apply_configuration, read_configuration
from dspex_ray.programs.model import Artifact, ModuleType
from dspex_ray.programs.paths import TEXTS, predictors_by_owner, target_of
from dspex_ray.programs.space import check_applicable, space_of
from dspex_ray.variables import ml, sampling
from dspex_ray.variables.declare import load_space
from dspex_ray.variables.domains import ChoiceVariable
from dspex_ray.variables.model import Configuration, Space
from dspex_ray.variables.rules import defaults

_MODEL = "model"


class SettingsParameters(OptimizerParameters):
    """What several optimizers let a caller say of the settings that may be changed."""

    space: Space | None = Field(
        default=None,
        description="variables that are set; null: as the program declares, or what it has",
    )
    models: tuple[Name, ...] = Field(
        default=(), description="registered models to choose the program's from"
    )
    module_types: tuple[ModuleType, ...] = Field(
        default=(), description="to choose from, for every module; none: as the space says"
    )


class PaletteParameters(SettingsParameters):
    """Of instructions and demos, too."""

    instructions: tuple[str, ...] = Field(default=(), description="further instructions to try")
    proposed_instructions: int = Field(
        default=4, ge=0, le=100, description="that the prompt model writes, if one is given"
    )
    max_demos: int = Field(default=8, ge=0, le=200, description="of each predictor; 0: none")
    demo_sets: int = Field(
        default=8, ge=1, le=1000, description="label-balanced sets of train examples to start with"
    )


class _Text(NamedTuple):
    """A variable that is a name of a pool: whose it is, and what."""

    owner: str
    attribute: str


class Palette:
    """Of one run; instructions and demos only where the parameters speak of them. Raises Invalid
    when made, before any model is called, for a space that changes nothing of the program, has no
    configuration, or cannot be applied."""

    def __init__(self, problem: Problem, given: SettingsParameters, bench: Workbench) -> None:
        self._problem, self._bench = problem, bench
        self._given = given if isinstance(given, PaletteParameters) else None
        artifact = problem.artifact
        self._predictors = predictors_of(artifact, allowed_packages=problem.allowed_packages)
        owners = {name: owner for owner, name in predictors_by_owner(artifact).items()}
        self._owners = {p.name: owners[p.name] for p in self._predictors}
        self._texts: dict[str, _Text] = {}
        self._instructions = Instructions(problem, bench)
        self._demos = self._demo_sets()
        self._settings = _settings(artifact, given)
        sampling.random(self._settings, 1, problem.seed)  # raises when nothing satisfies it
        further = self._given.instructions if self._given else ()
        self._wordings = plain_wordings(self._predictors, problem.train, further)
        self.space = self._with_texts()
        #: what stands for the program as it is: its own values, defaults for what it leaves open
        self.start = self._nearest()

    async def propose(self) -> None:
        """Adds what the prompt model writes to the instructions, when one is given."""
        if not self._bench.prompt_lm_given or self._given is None:
            return
        count = self._given.proposed_instructions
        written = await proposed_wordings(self._problem, self._bench, self._predictors, count)
        self._wordings += [wording for wording in written if wording not in self._wordings]
        self.space = self._with_texts()

    @property
    def growing(self) -> tuple[str, ...]:
        """The paths of the pools."""
        return tuple(self._texts)

    def shown(self, choice: Configuration) -> Configuration:
        """The choice, without what the program as it is leaves to its models."""
        if choice != self.start:
            return choice
        paths = [path for path in choice if path not in self._texts]
        return {
            **read_configuration(self._problem.artifact, paths),
            **{path: choice[path] for path in self._texts if path in choice},
        }

    async def program(self, choice: Configuration) -> Artifact:
        """The program with this choice; instructions that were only planned are written first.

        Raises Invalid for a choice that cannot be applied, and RunHalted.
        """
        if choice == self.start:
            return self._problem.artifact
        settings = {path: value for path, value in choice.items() if path not in self._texts}
        found = await asyncio.to_thread(apply_configuration, self._problem.artifact, settings)
        for path, (owner, attribute) in self._texts.items():
            name = choice.get(path, OWN)
            if name == OWN:
                continue
            if attribute == "instructions":
                found = with_instructions(found, owner, await self._instructions.text(str(name)))
            else:
                found = with_demos(found, owner, self._demos.values(str(name)))
        return found

    def demos(self, choice: Configuration) -> list[str]:
        """Hashes of the examples that the choice shows, of all predictors, each once."""
        names = [
            str(choice[path])
            for path, text in self._texts.items()
            if text.attribute == "demos" and choice.get(path, OWN) != OWN
        ]
        return list(dict.fromkeys(key for name in names for key in self._demos.hashes(name)))

    def mint(self, kind: Kind, path: str, parents: tuple[str, ...]) -> str | None:
        """`variation.Mint`: new instructions and demo sets of those that are known."""
        text = self._texts[path]
        if text.attribute == "demos":
            return self._demos.mint(kind, parents)
        own = next(p.instructions for p in self._predictors if self._owners[p.name] == text.owner)
        return self._instructions.mint(kind, parents, own)

    # --- the space -------------------------------------------------------------------------------

    def _with_texts(self) -> Space:
        """The settings with a variable for each pool; names stay what they were."""
        space = self._settings
        for predictor in self._predictors if self._given else ():
            texts = dict.fromkeys(wording[predictor.name] for wording in self._wordings)
            names = [
                OWN if text == predictor.instructions else self._instructions.named(text)
                for text in texts
            ]
            space = self._with_text(space, predictor, "instructions", names)
            if predictor.name in self._demos.taught:
                names = [OWN, *self._demos.names(own=bool(predictor.demos))]
                space = self._with_text(space, predictor, "demos", names)
        return space

    def _with_text(
        self, space: Space, predictor: Predictor, attribute: str, names: Sequence[str]
    ) -> Space:
        owner = self._owners[predictor.name]
        path = attribute if len(self._predictors) == 1 else f"{owner}.{attribute}"
        self._texts[path] = _Text(owner, attribute)
        choices = tuple(dict.fromkeys(names))
        return space.with_variable(path, ChoiceVariable(choices=choices, default=choices[0]))

    def _nearest(self) -> Configuration:
        """The space's own words for the program, mended where its constraints refuse them."""
        paths = [leaf.path for leaf in self._settings.leaves()]
        wanted = {**defaults(self.space), **read_configuration(self._problem.artifact, paths)}
        rng = np.random.default_rng(self._problem.seed)
        found = repaired(self.space, wanted, rng)
        return sampling.random(self.space, 1, self._problem.seed)[0] if found is None else found

    def _demo_sets(self) -> DemoSets:
        problem, given = self._problem, self._given
        examples = usable(self._predictors, problem.train)
        names = taught(self._predictors, examples) if given and given.max_demos else ()
        labels, most = labels_of(problem.artifact, problem.train), given.max_demos if given else 0
        found = DemoSets(problem.seed, examples, labels, most, names)
        if given and names:
            rng = random.Random(problem.seed)  # noqa: S311 - draws demos
            known = [labels[e.hash] for e in examples if e.hash in labels]
            sizes = set_sizes(most, known)
            for _ in range(given.demo_sets):
                found.named(drawn_set(examples, labels, rng.choice(sizes), rng))
        return found


def _settings(artifact: Artifact, given: SettingsParameters) -> Space:
    """The space without instructions and demos, whose names nobody but a palette knows."""
    space = space_of(artifact) if given.space is None else given.space
    if given.models:
        space = space.with_variable(_MODEL, ml.model(given.models))
    if given.module_types:
        paths = [leaf.path for leaf in space.leaves() if leaf.path.split(".")[-1] == "module"]
        types = ml.reasoning_strategy(given.module_types)
        for path in paths or ["module"]:
            space = space.with_variable(path, types)
    texts = [
        leaf.path for leaf in space.leaves() if target_of(artifact, leaf.path).attribute in TEXTS
    ]
    if texts:
        payload = space.model_dump(by_alias=True)
        for name in texts:
            payload["variables"].pop(name, None)
        space = load_space(payload)
    check_applicable(artifact, space)
    return space
