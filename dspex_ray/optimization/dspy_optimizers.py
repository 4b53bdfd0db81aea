"""DSPy's optimizers as entries of the registry: their parameters, what they need, their call."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, Literal, TypeVar

import dspy
import optuna
from dspy.teleprompt.teleprompt_optuna import BootstrapFewShotWithOptuna as UnseededOptuna
from pydantic import Field, model_validator

from dspex_ray.core.errors import Invalid
from dspex_ray.optimization.dspy_run import Setup, run_dspy
from dspex_ray.optimization.model import Needs, Outcome, Problem
from dspex_ray.optimization.rules import OptimizerParameters
from dspex_ray.optimization.workbench import Workbench

P = TypeVar("P", bound=OptimizerParameters)

optuna.logging.disable_default_handler()  # it would tell trials, and errors that quote content


class DspyOptimizer(Generic[P]):
    """Common to all: `check` before anything is called, `compile_student` in DSPy's thread."""

    name: str
    aliases: tuple[str, ...] = ()
    description: str
    source: str = "dspy"
    needs: Needs = Needs()
    parameters: type[P]
    refused: str | None = None
    compares_on_train: ClassVar[bool] = False
    tally: ClassVar[bool] = False

    async def optimize(self, problem: Problem, parameters: P, bench: Workbench) -> Outcome:
        self.check(problem, parameters)
        return await run_dspy(
            self.name,
            problem,
            bench,
            lambda setup: self.compile_student(setup, parameters),
            competes_on=problem.train if self.compares_on_train else None,
            tally=self.tally,
        )

    def check(self, problem: Problem, parameters: P) -> None:
        """Raises Invalid for what DSPy would find out only in the middle, or not at all."""

    @abstractmethod
    def compile_student(self, setup: Setup, parameters: P) -> Any:
        """The compiled module."""


class LabeledParameters(OptimizerParameters):
    k: int = Field(default=16, ge=1, description="demos of each predictor, at most")
    sample: bool = Field(default=True, description="drawn at random; false: the first ones")


class LabeledFewShot(DspyOptimizer[LabeledParameters]):
    name = "LabeledFewShot"
    description = "Puts train examples into the prompt as they are. Calls no model to choose them."
    needs = Needs(labels=True)
    parameters = LabeledParameters

    def compile_student(self, setup: Setup, parameters: LabeledParameters) -> Any:
        optimizer = dspy.LabeledFewShot(k=parameters.k)
        return optimizer.compile(setup.student, trainset=setup.train, sample=parameters.sample)


class BootstrapParameters(OptimizerParameters):
    max_bootstrapped_demos: int = Field(
        default=4, ge=0, description="demos of the program's own good runs"
    )
    max_labeled_demos: int = Field(default=16, ge=0, description="demos in all, filled with labels")
    max_rounds: int = Field(default=1, ge=1, description="attempts an example, sampled after one")
    max_errors: int | None = Field(
        default=None, ge=1, description="failed runs that end it; null: a failed run is a bad run"
    )
    metric_threshold: float | None = Field(
        default=None, ge=0, le=1, description="score of a good run; null: anything over 0"
    )


class BootstrapFewShot(DspyOptimizer[BootstrapParameters]):
    name = "BootstrapFewShot"
    description = "Runs the program on train examples and keeps good runs as demos."
    parameters = BootstrapParameters

    def compile_student(self, setup: Setup, parameters: BootstrapParameters) -> Any:
        optimizer = dspy.BootstrapFewShot(metric=setup.metric, **parameters.model_dump())
        return optimizer.compile(setup.student, trainset=setup.train)


class SearchParameters(OptimizerParameters):
    max_bootstrapped_demos: int = Field(default=4, ge=1, description="of a candidate, at most")
    max_labeled_demos: int = Field(default=16, ge=0, description="demos in all, filled with labels")
    max_rounds: int = Field(default=1, ge=1, description="attempts an example, sampled after one")
    num_candidate_programs: int = Field(default=16, ge=1, description="demo sets to compare")


class RandomSearchParameters(SearchParameters):
    max_errors: int | None = Field(
        default=None, ge=1, description="failed runs that end it; null: a failed run is a bad run"
    )
    metric_threshold: float | None = Field(
        default=None, ge=0, le=1, description="score of a good run; null: anything over 0"
    )
    stop_at_score: float | None = Field(
        default=None, ge=0, le=100, description="percent at which the search ends"
    )


class RandomSearch(DspyOptimizer[RandomSearchParameters]):
    name = "BootstrapFewShotWithRandomSearch"
    aliases = ("BootstrapRS",)
    description = "Bootstraps many random demo sets and compares them all on every dev example."
    parameters = RandomSearchParameters

    def compile_student(self, setup: Setup, parameters: RandomSearchParameters) -> Any:
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=setup.metric, num_threads=setup.threads, **parameters.model_dump()
        )
        return optimizer.compile(setup.student, trainset=setup.train, valset=setup.dev)


class SeededOptuna(UnseededOptuna):  # type: ignore[misc] # dspy is Any to mypy
    """DSPy's own, but for the sampler of its study, which DSPy leaves to chance."""

    def compile(
        self,
        student: Any,
        *,
        teacher: Any = None,
        max_demos: int,
        trainset: list[Any],
        valset: list[Any] | None = None,
        seed: int = 0,
    ) -> Any:
        self.trainset, self.valset = trainset, valset or trainset
        self.student = student.reset_copy()
        self.compiled_teleprompter = dspy.BootstrapFewShot(
            metric=self.metric,
            max_bootstrapped_demos=max_demos,
            max_labeled_demos=self.max_labeled_demos,
            max_rounds=self.max_rounds,
        ).compile(self.student, teacher=student.reset_copy(), trainset=trainset)
        if not all(p.demos for p in self.compiled_teleprompter.predictors()):
            raise Invalid(
                "no run of the program was good, and no labelled demos are allowed: there is "
                "nothing to choose from",
                field="parameters.max_labeled_demos",
                rule="demos to choose from",
            )
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        study.optimize(self.objective, n_trials=self.num_candidate_sets)
        return study.best_trial.user_attrs["program"]


class OptunaSearch(DspyOptimizer[SearchParameters]):
    name = "BootstrapFewShotWithOptuna"
    description = "Bootstraps demos and lets Optuna choose one of them for each predictor."
    parameters = SearchParameters

    def compile_student(self, setup: Setup, parameters: SearchParameters) -> Any:
        optimizer = SeededOptuna(
            metric=setup.metric, num_threads=setup.threads, **parameters.model_dump()
        )
        return optimizer.compile(
            setup.student,
            max_demos=parameters.max_bootstrapped_demos,
            trainset=setup.train,
            valset=setup.dev,
            seed=setup.seed,
        )


class CoproParameters(OptimizerParameters):
    breadth: int = Field(default=10, ge=2, description="instructions a round")
    depth: int = Field(default=3, ge=1, description="rounds")
    init_temperature: float = Field(default=1.4, ge=0, le=2, description="of the prompt model")


class Copro(DspyOptimizer[CoproParameters]):
    name = "COPRO"
    description = "Lets a model write instructions, round by round, from those that scored best."
    needs = Needs(prompt_model=True)
    parameters = CoproParameters
    compares_on_train = True

    def compile_student(self, setup: Setup, parameters: CoproParameters) -> Any:
        # COPRO shows its prompt model's last prompt on the terminal.
        quiet = setup.prompt_lm.copy(inspect_history=_show_nothing)
        optimizer = dspy.COPRO(prompt_model=quiet, metric=setup.metric, **parameters.model_dump())
        how = {"num_threads": setup.threads, "display_progress": False, "display_table": 0}
        return optimizer.compile(setup.student, trainset=setup.train, eval_kwargs=how)


class MiproParameters(OptimizerParameters):
    auto: Literal["light", "medium", "heavy"] | None = Field(
        default="light", description="sets num_candidates and num_trials; null: say both"
    )
    num_candidates: int | None = Field(
        default=None, ge=2, description="instructions, and demo sets, of each predictor"
    )
    num_trials: int | None = Field(default=None, ge=1, description="combinations to measure")
    max_bootstrapped_demos: int = Field(default=4, ge=0, description="of a demo set, at most")
    max_labeled_demos: int = Field(default=4, ge=0, description="demos in all, filled with labels")
    init_temperature: float = Field(default=1.0, ge=0, le=2, description="of the prompt model")
    minibatch: bool = Field(
        default=True, description="measure on some dev examples, on all now and then"
    )
    minibatch_size: int | None = Field(
        default=None, ge=1, description="null: 35, or all dev examples if fewer"
    )
    minibatch_full_eval_steps: int = Field(default=5, ge=1, description="trials between full ones")
    view_data_batch_size: int = Field(default=10, ge=1, description="examples shown at once")
    program_aware_proposer: bool = Field(default=True, description="show the program's source")
    data_aware_proposer: bool = Field(default=True, description="show a summary of the data")
    tip_aware_proposer: bool = Field(default=True, description="add a random tip")
    fewshot_aware_proposer: bool = Field(default=True, description="show demos")
    max_errors: int | None = Field(
        default=None, ge=1, description="failed runs that end it; null: a failed run is a bad run"
    )
    metric_threshold: float | None = Field(
        default=None, ge=0, le=1, description="score of a good run; null: anything over 0"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> MiproParameters:
        given = [self.num_candidates is not None, self.num_trials is not None]
        if self.auto is not None and any(given):
            raise ValueError("num_candidates and num_trials go with auto null only")
        if self.auto is None and not all(given):
            raise ValueError("auto null needs both num_candidates and num_trials")
        if self.max_bootstrapped_demos == 0 and self.max_labeled_demos > 0:
            raise ValueError(
                "max_bootstrapped_demos 0 beside labelled demos fails inside DSPy (issue 9938): "
                "give 1 or more, or 0 for both"
            )
        return self


class MiproV2(DspyOptimizer[MiproParameters]):
    name = "MIPROv2"
    aliases = ("MIPRO",)
    description = (
        "Lets a model write instructions that know data and program, bootstraps demo sets, and "
        "searches their combinations by Bayesian optimisation."
    )
    needs = Needs(train=2, prompt_model=True)
    parameters = MiproParameters

    _OF_COMPILE = frozenset(
        """
        num_trials minibatch minibatch_full_eval_steps view_data_batch_size
        program_aware_proposer data_aware_proposer tip_aware_proposer fewshot_aware_proposer
        """.split()  # noqa: SIM905 - a list literal takes eight lines
    )

    def check(self, problem: Problem, parameters: MiproParameters) -> None:
        size, have = parameters.minibatch_size, len(_compared(problem))
        if parameters.minibatch and size is not None and size > have:
            raise Invalid(
                f"minibatch_size is {size}, of {have} examples to compare on",
                field="parameters.minibatch_size",
                rule=f"at most {have}",
            )

    def compile_student(self, setup: Setup, parameters: MiproParameters) -> Any:
        train, dev = setup.train, setup.dev
        if dev is None:  # as DSPy would divide them, which it refuses to do for a minibatch
            cut = len(train) - max(1, int(len(train) * 0.8))
            train, dev = (train[:cut] or train[:1]), train[cut:]
        given = parameters.model_dump(exclude={"minibatch_size"})
        how = {name: given.pop(name) for name in self._OF_COMPILE}
        optimizer = dspy.MIPROv2(
            metric=setup.metric,
            prompt_model=setup.prompt_lm,
            task_model=setup.lm,
            num_threads=setup.threads,
            seed=setup.seed,
            track_stats=False,
            **given,
        )
        size = parameters.minibatch_size or min(35, len(dev))
        return optimizer.compile(
            setup.student, trainset=train, valset=dev, minibatch_size=size, **how
        )


class SimbaParameters(OptimizerParameters):
    bsize: int = Field(default=32, ge=1, description="train examples a step")
    num_candidates: int = Field(default=6, ge=2, description="new programs a step")
    max_steps: int = Field(default=8, ge=1)
    max_demos: int = Field(default=4, ge=0, description="0: rules only")
    demo_input_field_maxlen: int = Field(default=100_000, ge=1, description="characters")
    temperature_for_sampling: float = Field(default=0.2, gt=0)
    temperature_for_candidates: float = Field(default=0.2, gt=0)


class Simba(DspyOptimizer[SimbaParameters]):
    name = "SIMBA"
    description = (
        "Looks at where the program's runs differ most, and adds a demo or a rule it writes itself."
    )
    needs = Needs(prompt_model=True)
    parameters = SimbaParameters
    compares_on_train = True
    tally = True

    def check(self, problem: Problem, parameters: SimbaParameters) -> None:
        if parameters.bsize > len(problem.train):
            raise Invalid(
                f"bsize is {parameters.bsize}, of {len(problem.train)} train examples",
                field="parameters.bsize",
                rule=f"at most {len(problem.train)}",
            )

    def compile_student(self, setup: Setup, parameters: SimbaParameters) -> Any:
        optimizer = dspy.SIMBA(
            metric=setup.metric,
            prompt_model=setup.prompt_lm,
            num_threads=setup.threads,
            **parameters.model_dump(),
        )
        return optimizer.compile(setup.student, trainset=setup.train, seed=setup.seed)


class GepaParameters(OptimizerParameters):
    auto: Literal["light", "medium", "heavy"] | None = Field(
        default=None, description="a budget by the size of program and data"
    )
    max_full_evals: int | None = Field(default=None, ge=1)
    max_metric_calls: int | None = Field(
        default=None, ge=1, description="about; the run's own budget is exact"
    )
    reflection_minibatch_size: int = Field(default=3, ge=1)
    candidate_selection_strategy: Literal["pareto", "current_best"] = "pareto"
    skip_perfect_score: bool = True
    add_format_failure_as_feedback: bool = False
    component_selector: Literal["round_robin", "all"] = "round_robin"
    use_merge: bool = True
    max_merge_invocations: int | None = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _one_budget(self) -> GepaParameters:
        given = (self.auto, self.max_full_evals, self.max_metric_calls)
        if sum(part is not None for part in given) > 1:
            raise ValueError("auto, max_full_evals and max_metric_calls: one of them")
        return self


class Gepa(DspyOptimizer[GepaParameters]):
    name = "GEPA"
    description = (
        "Lets a model reflect on runs and rewrite instructions; keeps whoever is best on some "
        "example."
    )
    needs = Needs(prompt_model=True)
    parameters = GepaParameters

    def compile_student(self, setup: Setup, parameters: GepaParameters) -> Any:
        given = parameters.model_dump()
        if not any(given[name] for name in ("auto", "max_full_evals", "max_metric_calls")):
            given["auto"] = "light"
        optimizer = dspy.GEPA(
            metric=setup.metric,
            reflection_lm=setup.prompt_lm,
            num_threads=setup.threads,
            seed=setup.seed,
            warn_on_score_mismatch=False,
            **given,
        )
        return optimizer.compile(setup.student, trainset=setup.train, valset=setup.dev)


class KnnParameters(OptimizerParameters):
    k: int = Field(default=3, ge=1, description="nearest train examples of each request")


class KnnFewShot(DspyOptimizer[KnnParameters]):
    name = "KNNFewShot"
    description = "Bootstraps demos anew for each request, from the train examples nearest to it."
    parameters = KnnParameters
    refused = (
        "what it makes is a function that holds the train set and bootstraps at every request; "
        "a program version is data, and DSPy cannot save it as such"
    )

    def compile_student(self, setup: Setup, parameters: KnnParameters) -> Any:
        raise Invalid(
            f"{self.name} cannot be run: {self.refused}", field="optimizer", rule="saved as data"
        )


DSPY_OPTIMIZERS: tuple[DspyOptimizer[Any], ...] = (
    LabeledFewShot(),
    BootstrapFewShot(),
    RandomSearch(),
    OptunaSearch(),
    Copro(),
    MiproV2(),
    Simba(),
    Gepa(),
    KnnFewShot(),
)


def _compared(problem: Problem) -> tuple[Any, ...]:
    if problem.dev:
        return problem.dev
    return problem.train[len(problem.train) - max(1, int(len(problem.train) * 0.8)) :]


def _show_nothing(n: int = 1) -> None:
    """In place of an LM's `inspect_history`."""
