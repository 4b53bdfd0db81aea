"""Problems with known answers to search on: the field's test functions, and programs simulated.

A landscape gives the true figures of a configuration, and what a measurement of it would show:
the same but for noise, which is the configuration's own (measured again, it shows the same).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.objectives import Limit, Objective
from dspex_ray.variables.declare import declared
from dspex_ray.variables.domains import FloatVariable
from dspex_ray.variables.model import Configuration, Space

Figures = dict[str, float]


@dataclass(frozen=True)
class Landscape:
    """`kind`: smooth, constrained, conditional or prompt. `reference` and `ideal`, by objective:
    the worst and the best corner of the box that a hypervolume is a share of."""

    name: str
    kind: str
    space: Space
    objectives: tuple[Objective, ...]
    reference: tuple[float, ...]
    ideal: tuple[float, ...]
    true: Callable[[Configuration], Figures]
    evaluations: int
    limits: tuple[Limit, ...] = ()
    noise: Mapping[str, float] | None = None
    seed: int = 0

    def measured(self, configuration: Configuration) -> Figures:
        found = self.true(configuration)
        if not self.noise:
            return found
        own = int(content_hash([self.seed, configuration])[:12], 16)
        drawn = np.random.default_rng(own)
        for name, deviation in self.noise.items():
            found[name] += deviation * float(drawn.standard_normal())
        return found


def landscapes(seed: int) -> tuple[Landscape, ...]:
    """The simulated programs differ by seed, as one task differs from another."""
    smooth = [
        _smooth("zdt1", _zdt1, 10, (1.1, 6.0)),
        _smooth("zdt2", _zdt2, 10, (1.1, 6.0)),
        _smooth("zdt3", _zdt3, 10, (1.1, 6.0), ideal=(0.0, -0.8)),
        _smooth("dtlz2", _dtlz2, 7, (2.0, 2.0, 2.0)),
        _smooth("c2dtlz2", _c2_dtlz2, 7, (2.0, 2.0), limits=(Limit(name="c", at_most=0.0),)),
        _osy(),
    ]
    return (*smooth, _prompts(seed), _tight_prompts(seed), _branches(seed))


def _minimised(count: int) -> tuple[Objective, ...]:
    return tuple(Objective(name=f"f{k + 1}", direction="minimize") for k in range(count))


def _smooth(
    name: str,
    function: Callable[[np.ndarray], Figures],
    dimensions: int,
    reference: tuple[float, ...],
    *,
    ideal: tuple[float, ...] | None = None,
    limits: tuple[Limit, ...] = (),
) -> Landscape:
    names = [f"x{k}" for k in range(dimensions)]
    return Landscape(
        name=name,
        kind="constrained" if limits else "smooth",
        space=Space(variables={x: FloatVariable(low=0.0, high=1.0) for x in names}),
        objectives=_minimised(len(reference)),
        reference=reference,
        ideal=ideal or (0.0,) * len(reference),
        true=lambda given: function(np.array([float(given[x]) for x in names])),  # type: ignore[arg-type]
        evaluations=80,
        limits=limits,
    )


def _zdt1(x: np.ndarray) -> Figures:
    g = 1 + 9 * float(x[1:].mean())
    return {"f1": float(x[0]), "f2": g * (1 - math.sqrt(x[0] / g))}


def _zdt2(x: np.ndarray) -> Figures:
    g = 1 + 9 * float(x[1:].mean())
    return {"f1": float(x[0]), "f2": g * (1 - (x[0] / g) ** 2)}


def _zdt3(x: np.ndarray) -> Figures:
    g = 1 + 9 * float(x[1:].mean())
    share = x[0] / g
    return {
        "f1": float(x[0]),
        "f2": g * (1 - math.sqrt(share) - share * math.sin(10 * math.pi * x[0])),
    }


_BEST = 0.3  #: the original's 0.5 would be where ours starts


def _dtlz2(x: np.ndarray) -> Figures:
    g = float(((x[2:] - _BEST) ** 2).sum())
    a, b = x[0] * math.pi / 2, x[1] * math.pi / 2
    return {
        "f1": (1 + g) * math.cos(a) * math.cos(b),
        "f2": (1 + g) * math.cos(a) * math.sin(b),
        "f3": (1 + g) * math.sin(a),
    }


def _c2_dtlz2(x: np.ndarray) -> Figures:
    """Two objectives; only three patches of the front are within the limit (Jain, Deb 2014)."""
    g = float(((x[1:] - _BEST) ** 2).sum())
    one, two = (1 + g) * math.cos(x[0] * math.pi / 2), (1 + g) * math.sin(x[0] * math.pi / 2)
    r = 0.2
    ends = min((one - 1) ** 2 + two**2, (two - 1) ** 2 + one**2) - r**2
    middle = (one - math.sqrt(0.5)) ** 2 + (two - math.sqrt(0.5)) ** 2 - r**2
    return {"f1": one, "f2": two, "c": min(ends, middle)}


def _osy() -> Landscape:
    """Osyczka and Kundu 1995: six variables; four of the constraints are of the space, two of the
    outcome."""
    at_most = "<="
    space = declared(
        {
            "x1": {"float": [0, 10]},
            "x2": {"float": [0, 10]},
            "x3": {"float": [1, 5]},
            "x4": {"float": [0, 6]},
            "x5": {"float": [1, 5]},
            "x6": {"float": [0, 10]},
        },
        [
            _sum("c1", {"x1": -1, "x2": -1}, at_most, -2),
            _sum("c2", {"x1": 1, "x2": 1}, at_most, 6),
            _sum("c3", {"x2": 1, "x1": -1}, at_most, 2),
            _sum("c4", {"x1": 1, "x2": -3}, at_most, 2),
        ],
    )

    def true(given: Configuration) -> Figures:
        x1, x2, x3, x4, x5, x6 = (float(given[f"x{k}"]) for k in range(1, 7))  # type: ignore[arg-type]
        f1 = -(25 * (x1 - 2) ** 2 + (x2 - 2) ** 2 + (x3 - 1) ** 2 + (x4 - 4) ** 2 + (x5 - 1) ** 2)
        return {
            "f1": f1,
            "f2": x1**2 + x2**2 + x3**2 + x4**2 + x5**2 + x6**2,
            "c5": (x3 - 3) ** 2 + x4,
            "c6": (x5 - 3) ** 2 + x6,
        }

    return Landscape(
        name="osy",
        kind="constrained",
        space=space,
        objectives=_minimised(2),
        reference=(0.0, 140.0),
        ideal=(-280.0, 0.0),
        true=true,
        evaluations=80,
        limits=(Limit(name="c5", at_most=4.0), Limit(name="c6", at_least=4.0)),
    )


def _sum(name: str, terms: dict[str, int], op: str, value: float) -> dict[str, object]:
    return {"name": name, "rule": {"kind": "sum", "terms": terms, "op": op, "value": value}}


_MODELS = ("tiny", "small", "medium", "large")
_COST = dict(zip(_MODELS, (0.05, 0.2, 1.0, 4.0), strict=True))
_LATENCY = dict(zip(_MODELS, (100.0, 200.0, 500.0, 1200.0), strict=True))
_INSTRUCTIONS = tuple(f"i{k}" for k in range(12))
_DEMOS = tuple(f"d{k}" for k in range(10))


def _prompts(seed: int) -> Landscape:
    """Which model, module, demos and instruction; accuracy as of 150 examples, by whose share of
    right answers two programs differ."""
    return Landscape(
        name="prompts",
        kind="prompt",
        space=declared(_VARIABLES),
        objectives=_ACCURACY_COST,
        reference=(0.0, 25.0),
        ideal=(1.0, 0.0),
        true=_program(seed),
        evaluations=80,
        noise={"accuracy": 0.03},
        seed=seed,
    )


def _tight_prompts(seed: int) -> Landscape:
    """The same with what may not go together, and a ceiling on latency."""
    return Landscape(
        name="tight prompts",
        kind="constrained",
        space=declared(
            _VARIABLES,
            [
                {"name": "window", "rule": _when("model", "in", ["tiny"], "k", "<=", 3)},
                {"name": "tools", "rule": _when("module", "==", "react", "model", "!=", "tiny")},
                {"name": "sure", "rule": _when("temperature", ">", 0.8, "draft.k", "<=", 2)},
                {
                    "name": "room",
                    "rule": {
                        "kind": "sum",
                        "terms": {"k": 1, "draft.k": 1},
                        "op": "<=",
                        "value": 10,
                    },
                },
            ],
        ),
        objectives=_ACCURACY_COST,
        reference=(0.0, 25.0),
        ideal=(1.0, 0.0),
        true=_program(seed),
        evaluations=80,
        limits=(Limit(name="latency_ms", at_most=1200.0),),
        noise={"accuracy": 0.03},
        seed=seed,
    )


_ACCURACY_COST = (Objective(name="accuracy"), Objective(name="cost", direction="minimize"))
_IS_REACT = {"variable": "module", "op": "==", "value": "react"}
_IS_COT = {"variable": "module", "op": "==", "value": "chain_of_thought"}
_VARIABLES: dict[str, object] = {
    "model": list(_MODELS),
    "module": ["predict", "chain_of_thought", "react"],
    "instruction": list(_INSTRUCTIONS),
    "demos": list(_DEMOS),
    "k": {"integer": [0, 8]},
    "temperature": {"float": [0.0, 1.0]},
    "rationale": {"choice": ["short", "long", "steps"], "when": _IS_COT},
    "max_steps": {"integer": [1, 8], "when": _IS_REACT},
    "draft.model": {"kind": "choice", "choices": list(_MODELS)},
    "draft.demos": {"kind": "choice", "choices": list(_DEMOS)},
    "draft.k": {"integer": [0, 8]},
}


def _when(name: str, op: str, value: object, then: str, is_: str, what: object) -> object:
    return {
        "kind": "implies",
        "when": {"variable": name, "op": op, "value": value},
        "then": {"variable": then, "op": is_, "value": what},
    }


def _program(seed: int) -> Callable[[Configuration], Figures]:
    """A program of two predictors with effects drawn at random: of models, instructions and demo
    sets, and of instructions on models; more demos help ever less."""
    rng = np.random.default_rng([seed, 3])
    skill = dict(
        zip(_MODELS, np.array([-1.6, -0.8, 0.1, 0.9]) + rng.normal(0, 0.2, 4), strict=True)
    )
    wording = {i: dict(zip(_MODELS, rng.normal(0, 0.3, 4), strict=True)) for i in _INSTRUCTIONS}
    general = dict(zip(_INSTRUCTIONS, rng.normal(0, 0.4, len(_INSTRUCTIONS)), strict=True))
    shown = dict(zip(_DEMOS, rng.normal(0.6, 0.4, len(_DEMOS)), strict=True))
    drafted = dict(zip(_DEMOS, rng.normal(0.4, 0.3, len(_DEMOS)), strict=True))
    best_temperature = rng.uniform(0, 0.7)
    module = {
        "predict": 0.0,
        "chain_of_thought": rng.normal(0.4, 0.2),
        "react": rng.normal(0.3, 0.3),
    }
    rationale = dict(zip(("short", "long", "steps"), rng.normal(0, 0.25, 3), strict=True))
    steps = rng.integers(2, 7)

    def true(given: Configuration) -> Figures:
        c: dict[str, object] = dict(given)
        model, kind, draft = str(c["model"]), str(c["module"]), str(c["draft.model"])
        k, draft_k = int(c["k"]), int(c["draft.k"])  # type: ignore[call-overload]
        score = skill[model] + 0.5 * skill[draft] + general[str(c["instruction"])]
        score += wording[str(c["instruction"])][model] + module[kind]
        score += shown[str(c["demos"])] * (1 - 0.7**k)
        score += drafted[str(c["draft.demos"])] * (1 - 0.7**draft_k)
        score -= 1.5 * (float(c["temperature"]) - best_temperature) ** 2  # type: ignore[arg-type]
        calls, tokens = 1.0, 1.0
        if kind == "chain_of_thought":
            score += rationale[str(c["rationale"])]
            tokens += {"short": 0.5, "long": 2.0, "steps": 1.2}[str(c["rationale"])]
        if kind == "react":
            calls = float(int(c["max_steps"]))  # type: ignore[call-overload]
            score -= 0.08 * abs(calls - steps)
        cost = calls * _COST[model] * (tokens + 0.25 * k) + _COST[draft] * (0.5 + 0.2 * draft_k)
        wait = calls * _LATENCY[model] * (0.5 + 0.5 * tokens + 0.02 * k) + 0.5 * _LATENCY[draft]
        accuracy = 1 / (1 + math.exp(-float(score)))
        return {"accuracy": accuracy, "cost": cost, "latency_ms": wait}

    return true


def _branches(seed: int) -> Landscape:
    """Three branches with numbers of their own, each good for another part of the front."""
    rng = np.random.default_rng([seed, 5])
    names = ("a", "b", "c")
    best = {name: rng.uniform(0.1, 0.9, 4) for name in names}
    variables: dict[str, object] = {"branch": list(names), "shared": {"float": [0.0, 1.0]}}
    for name in names:
        when = {"variable": "branch", "op": "==", "value": name}
        variables |= {f"{name}.x{k}": {"float": [0.0, 1.0], "when": when} for k in range(4)}
    spot = dict(zip(names, (0.15, 0.5, 0.85), strict=True))

    def true(given: Configuration) -> Figures:
        branch, t = str(given["branch"]), float(given["shared"])  # type: ignore[arg-type]
        x = np.array([float(given[f"{branch}.x{k}"]) for k in range(4)])  # type: ignore[arg-type]
        off = 2 * float(((x - best[branch]) ** 2).sum()) + 2 * (t - spot[branch]) ** 2
        return {
            "f1": (1 + off) * math.cos(t * math.pi / 2),
            "f2": (1 + off) * math.sin(t * math.pi / 2),
        }

    return Landscape(
        name="branches",
        kind="conditional",
        space=declared(variables),
        objectives=_minimised(2),
        reference=(2.0, 2.0),
        ideal=(0.0, 0.0),
        true=true,
        evaluations=80,
        seed=seed,
    )
