"""All optimizers by name: ours, DSPy's, and those that installed packages bring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from dspex_ray.core.errors import AlreadyExists, Invalid
from dspex_ray.optimization.model import Needs, OptimizerInfo, Outcome, Problem
from dspex_ray.optimization.rules import (
    OptimizerParameters,
    check_problem,
    checked_parameters,
    described,
)
from dspex_ray.optimization.workbench import Workbench

GROUP = "dspex_ray.optimizers"


class Optimizer(Protocol):
    """What a plug-in's entry point names: an instance, or a class without arguments.

    `parameters` is its pydantic model, `refused` why it cannot be run (None: it can).
    """

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def description(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def needs(self) -> Needs: ...
    @property
    def parameters(self) -> type[OptimizerParameters]: ...
    @property
    def refused(self) -> str | None: ...

    async def optimize(self, problem: Problem, parameters: Any, bench: Workbench) -> Outcome:
        """`parameters` is an instance of the model above, `problem` fits `needs`.

        All calls go through the workbench. A spent budget or a cancel is no error: the outcome
        is the best so far.
        """
        ...


class Registry:
    """Names are case-sensitive, as DSPy's classes are; an alias stands for its optimizer."""

    def __init__(
        self, optimizers: Iterable[Optimizer] = (), plug_ins: Iterable[EntryPoint] = ()
    ) -> None:
        """A plug-in is imported when its optimizer is asked for. Its entry point's name is the
        optimizer's."""
        self._optimizers: dict[str, Optimizer] = {}
        self._aliases: dict[str, str] = {}
        self._plug_ins: dict[str, EntryPoint] = {}
        for optimizer in optimizers:
            self.register(optimizer)
        for plug_in in plug_ins:
            self._refuse_known(plug_in.name)
            self._plug_ins[plug_in.name] = plug_in

    def register(self, optimizer: Optimizer) -> None:
        """Raises AlreadyExists when its name or an alias is taken."""
        for name in (optimizer.name, *optimizer.aliases):
            self._refuse_known(name)
        self._optimizers[optimizer.name] = optimizer
        self._aliases |= dict.fromkeys(optimizer.aliases, optimizer.name)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._optimizers, *self._plug_ins}))

    def get(self, name: str) -> Optimizer:
        """By name or alias. Raises Invalid: unknown, or a plug-in that is none."""
        name = self._aliases.get(name, name)
        if name in self._plug_ins and name not in self._optimizers:
            self._optimizers[name] = _loaded(self._plug_ins[name])
        if name not in self._optimizers:
            known = ", ".join(self.names())
            raise Invalid(
                f"Unknown optimizer: {name[:100]} (known: {known})",
                field="optimizer",
                rule="known optimizer",
            )
        return self._optimizers[name]

    def info(self, name: str) -> OptimizerInfo:
        optimizer = self.get(name)
        return OptimizerInfo(
            name=optimizer.name,
            aliases=optimizer.aliases,
            description=optimizer.description,
            source=optimizer.source,
            parameters=described(optimizer.parameters),
            needs=optimizer.needs,
            refused=optimizer.refused,
        )

    def parameters(self, name: str, given: Mapping[str, Any]) -> OptimizerParameters:
        """The parameters with their defaults. Raises Invalid naming the parameter and its rule."""
        optimizer = self.get(name)
        if optimizer.refused is not None:
            raise Invalid(
                f"{optimizer.name} cannot be run: {optimizer.refused}",
                field="optimizer",
                rule="saved as data",
            )
        return checked_parameters(optimizer.parameters, optimizer.name, given)

    async def optimize(
        self,
        name: str,
        problem: Problem,
        bench: Workbench,
        parameters: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Raises Invalid, naming field and rule, before any model is called for what can be told
        before; for a metric or a program at fault, after."""
        checked = self.parameters(name, parameters or {})
        optimizer = self.get(name)
        check_problem(optimizer.name, optimizer.needs, problem)
        return await optimizer.optimize(problem, checked, bench)

    compile = optimize  #: DSPy's word for it

    def _refuse_known(self, name: str) -> None:
        if name in self._optimizers or name in self._aliases or name in self._plug_ins:
            raise AlreadyExists(f"there is an optimizer {name!r} already", field="optimizer")


def builtin_registry() -> Registry:
    """DSPy's optimizers, ours, and those of installed packages (entry points of `GROUP`)."""
    from dspex_ray.optimization.advanced_bootstrap import AdvancedBootstrap
    from dspex_ray.optimization.bayesian import BayesianOptimizer
    from dspex_ray.optimization.dspy_optimizers import DSPY_OPTIMIZERS
    from dspex_ray.optimization.enhanced_simba import EnhancedSimba
    from dspex_ray.optimization.multi_objective import MultiObjective
    from dspex_ray.optimization.racing_search import DspexSearch

    own: tuple[Optimizer, ...] = (
        AdvancedBootstrap(),
        BayesianOptimizer(),
        DspexSearch(),
        EnhancedSimba(),
        MultiObjective(),
    )
    return Registry((*DSPY_OPTIMIZERS, *own), entry_points(group=GROUP))


def _loaded(plug_in: EntryPoint) -> Optimizer:
    try:
        found = plug_in.load()
        optimizer: Optimizer = found() if isinstance(found, type) else found
        fits = issubclass(optimizer.parameters, OptimizerParameters) and callable(
            optimizer.optimize
        )
        fits = fits and optimizer.name == plug_in.name and isinstance(optimizer.needs, Needs)
    except Exception as error:  # an installed package may raise anything
        raise _no_optimizer(plug_in, f"raised {type(error).__name__}") from error
    if not fits:
        raise _no_optimizer(plug_in, "is not what Optimizer asks for")
    return optimizer


def _no_optimizer(plug_in: EntryPoint, why: str) -> Invalid:
    return Invalid(
        f"optimizer {plug_in.name!r}: its plug-in {plug_in.value} {why}",
        field="optimizer",
        rule="plug-in",
    )
