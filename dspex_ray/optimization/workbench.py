"""What an optimizer works with: metered models, an evaluator, the ledger. One for each run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dspex_ray.core.clock import Clock
from dspex_ray.optimization.budget import Ledger
from dspex_ray.optimization.evaluator import Evaluator, LocalEvaluator
from dspex_ray.optimization.metering import Meter, ModelsMeter, metered
from dspex_ray.optimization.model import Problem, Spent
from dspex_ray.optimization.record import OnTrial
from dspex_ray.optimization.student import Forward, run_here
from dspex_ray.optimization.trials import LocalTrials, TrialRunner

Embed = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]]]]


@dataclass(frozen=True)
class Workbench:
    """`lm` and `prompt_lm` are metered by `ledger`; `prompt_lm` writes instructions, and is the
    program's own LM when nobody gave another (`prompt_lm_given` says). `embed` makes vectors of
    texts. `forward` is how DSPy's optimizers run the program, `trials` how independent candidates
    are measured."""

    lm: Any
    prompt_lm: Any
    ledger: Ledger
    evaluator: Evaluator
    prompt_lm_given: bool = False
    embed: Embed | None = None
    forward: Forward = run_here
    on_trial: OnTrial | None = None
    trials: TrialRunner = LocalTrials()  # noqa: RUF009 - it has no state


def local_workbench(
    problem: Problem,
    lm: Any,
    *,
    prompt_lm: Any = None,
    meter: Meter | None = None,
    prompt_meter: Meter | None = None,
    embed: Embed | None = None,
    on_trial: OnTrial | None = None,
    clock: Clock | None = None,
    already: Spent | None = None,
) -> Workbench:
    """Everything in this process. `already`: what an interrupted run spent before.

    The LMs are `dspy.LM`s with engines of their own. Without a meter tokens are counted and
    prices unknown: a budget in USD then refuses the first call.
    """
    ledger = Ledger(problem.budget, clock, already)
    own = metered(lm, ledger, meter or ModelsMeter())
    prompting = (
        own
        if prompt_lm is None
        else metered(prompt_lm, ledger, prompt_meter or meter or ModelsMeter())
    )
    return Workbench(
        lm=own,
        prompt_lm=prompting,
        ledger=ledger,
        evaluator=LocalEvaluator(problem, own),
        prompt_lm_given=prompt_lm is not None,
        embed=embed,
        on_trial=on_trial,
    )
