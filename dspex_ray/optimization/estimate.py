"""What a run comes to before it starts, in LM calls, tokens and USD: upper bounds, about.

DSPy's optimizers do not say; the counts are read off their loops, the worst case of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from dspex_ray.models.model import Model
from dspex_ray.models.tokenizers import estimate_call_cost, estimated_tokens
from dspex_ray.optimization.model import Budget
from dspex_ray.optimization.race import Pace, most_runs
from dspex_ray.optimization.runs import RunEstimate

_OVERHEAD_TOKENS = 100  #: of an adapter's instructions around the fields
_ANSWER_TOKENS = 256  #: when neither predictor nor model limits an answer
_DEMOS = 4  #: that a candidate's prompt holds on average
_DSPY_TRIALS = {"light": (6, 100), "medium": (12, 300), "heavy": (18, 1000)}  #: MIPROv2's own


class Sizes(NamedTuple):
    """Of a problem: predictors of the program, examples. `prompts`: whether a prompt model is
    given. `metric_calls`: LM calls of the metric for each program run. `held_out_calls`: for what
    is measured once the search is over."""

    predictors: int
    train: int
    dev: int
    prompts: bool
    metric_calls: int = 0
    held_out_calls: int = 0

    @property
    def compared(self) -> int:
        return self.dev or self.train


class _Work(NamedTuple):
    runs: int  #: of the program
    prompts: int = 0  #: calls that write instructions


def estimate(
    optimizer: str,
    parameters: Mapping[str, Any],
    sizes: Sizes,
    budget: Budget,
    *,
    tokens_per_call: int,
    answer_tokens: int,
    models: Sequence[Model],
) -> RunEstimate:
    """`parameters` with their defaults. Calls are None for an optimizer of which nothing is known
    and that has no budget of calls; USD when some price, or the calls, are unknown."""
    work = _WORK.get(optimizer)
    if work is None:
        calls, basis = budget.lm_calls, "the budget of calls" if budget.lm_calls else "unknown"
    else:
        runs, prompts = work(parameters, sizes)
        calls = runs * (sizes.predictors + sizes.metric_calls) + prompts + sizes.held_out_calls
        basis = (
            f"at most {runs} program runs of {sizes.predictors} calls and {prompts} calls that "
            "write instructions"
        )
        if sizes.held_out_calls:
            basis += f", and {sizes.held_out_calls} calls on test examples"
        if budget.lm_calls is not None and budget.lm_calls < calls:
            calls, basis = budget.lm_calls, f"the budget of calls; without it, {basis}"
    tokens = None if calls is None else calls * (tokens_per_call + answer_tokens)
    if budget.tokens is not None:
        tokens = budget.tokens if tokens is None else min(tokens, budget.tokens)
    return RunEstimate(
        lm_calls=calls,
        tokens=tokens,
        cost_usd=_cost(calls, tokens_per_call, answer_tokens, models, budget),
        basis=basis,
    )


def call_size(
    instructions: str, example_bytes: float, answer_limits: Sequence[int | None]
) -> tuple[int, int]:
    """Tokens of one call's prompt and answer, about. `example_bytes`: of an average example."""
    prompt = estimated_tokens(len(instructions.encode()) + round(example_bytes * (1 + _DEMOS)))
    known = [limit for limit in answer_limits if limit is not None]
    return prompt + _OVERHEAD_TOKENS, min(_ANSWER_TOKENS, max(known, default=_ANSWER_TOKENS))


def _cost(
    calls: int | None, prompt: int, answer: int, models: Sequence[Model], budget: Budget
) -> Decimal | None:
    """By the dearest of the models that may answer."""
    each = [estimate_call_cost(prompt, answer, model.price) for model in models]
    known = [cost for cost in each if cost is not None]
    if calls is None or not known or len(known) < len(each):
        return budget.usd
    cost = calls * max(known)
    return cost if budget.usd is None else min(cost, budget.usd)


def _labeled(p: Mapping[str, Any], s: Sizes) -> _Work:
    return _Work(s.dev)


def _bootstrap(p: Mapping[str, Any], s: Sizes) -> _Work:
    return _Work(s.train * p["max_rounds"] + s.dev)


def _random_search(p: Mapping[str, Any], s: Sizes) -> _Work:
    sets = p["num_candidate_programs"]
    return _Work((sets + 3) * s.compared + (sets + 1) * s.train * p["max_rounds"])


def _optuna(p: Mapping[str, Any], s: Sizes) -> _Work:
    return _Work(p["num_candidate_programs"] * s.compared + s.train * p["max_rounds"] + s.dev)


def _copro(p: Mapping[str, Any], s: Sizes) -> _Work:
    measured = p["breadth"] * p["depth"] * s.predictors
    return _Work(measured * s.train + s.dev, prompts=measured)


def _mipro(p: Mapping[str, Any], s: Sizes) -> _Work:
    candidates, most = _DSPY_TRIALS.get(p["auto"] or "", (p["num_candidates"] or 0, s.compared))
    compared = min(s.compared, most)
    variables = s.predictors * (2 if p["max_bootstrapped_demos"] else 1)
    trials = p["num_trials"] or int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
    size = min(p["minibatch_size"] or 35, compared) if p["minibatch"] else compared
    full = trials // p["minibatch_full_eval_steps"] + 2 if p["minibatch"] else 1
    runs = trials * size + full * compared + candidates * s.train + s.dev
    summaries = -(-s.train // p["view_data_batch_size"]) + 1
    return _Work(runs, prompts=2 * candidates * s.predictors + summaries)


def _simba(p: Mapping[str, Any], s: Sizes) -> _Work:
    a_step = 2 * p["bsize"] * p["num_candidates"]
    final = (min(p["num_candidates"], p["max_steps"]) + 1) * s.train
    steps = p["max_steps"]
    return _Work(steps * a_step + final + s.dev, prompts=steps * p["num_candidates"])


def _gepa(p: Mapping[str, Any], s: Sizes) -> _Work:
    runs = p["max_metric_calls"]
    if runs is None and p["max_full_evals"] is not None:
        runs = p["max_full_evals"] * (s.train + s.dev)
    if runs is None:  # `auto`, light unless said: DSPy's number of candidates, each fully measured
        runs = _DSPY_TRIALS[p["auto"] or "light"][0] * 4 * s.compared
    return _Work(runs + 2 * s.compared, prompts=runs // max(1, p["reflection_minibatch_size"]))


def _racing(p: Mapping[str, Any], s: Sizes) -> _Work:
    prompts = p["proposed_instructions"] if s.prompts else 0
    pace = Pace(p["first_share"], p["keep_start"])
    return _Work(most_runs(p["num_candidates"], s.compared, pace, p["heat"]), prompts)


def _advanced(p: Mapping[str, Any], s: Sizes) -> _Work:
    hard = min(2 * p["candidates_per_strategy"], s.train) if "hard" in p["strategies"] else 0
    return _Work(hard + p["measured_runs"] + p["probes"] * 8 + most_runs(7, s.compared, Pace(), 7))


def _multi_objective(p: Mapping[str, Any], s: Sizes) -> _Work:
    """Without what is dropped early: that nobody knows before."""
    made = p["population_size"] * p["iterations"]
    runs = (1 + made) * min(p["examples"], s.compared) + s.compared
    return _Work(runs, prompts=p["proposed_instructions"] + made if s.prompts else 0)


def _bayesian(p: Mapping[str, Any], s: Sizes) -> _Work:
    tried = p["num_initial_samples"] + p["max_iterations"]
    return _Work(tried * s.compared, prompts=p["proposed_instructions"] if s.prompts else 0)


def _enhanced_simba(p: Mapping[str, Any], s: Sizes) -> _Work:
    then = _simba(p, s)
    tried = max(1, p["num_variable_candidates"] * p["rounds"])
    return then._replace(runs=then.runs + tried * s.compared)


_WORK: dict[str, Callable[[Mapping[str, Any], Sizes], _Work]] = {
    "LabeledFewShot": _labeled,
    "BootstrapFewShot": _bootstrap,
    "BootstrapFewShotWithRandomSearch": _random_search,
    "BootstrapFewShotWithOptuna": _optuna,
    "COPRO": _copro,
    "MIPROv2": _mipro,
    "SIMBA": _simba,
    "GEPA": _gepa,
    "DspexSearch": _racing,
    "AdvancedBootstrap": _advanced,
    "BayesianOptimizer": _bayesian,
    "EnhancedSIMBA": _enhanced_simba,
    "MultiObjective": _multi_objective,
}
