"""Strategies: variables, spaces with dependencies and constraints, of every kind."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dspex_ray.variables.conditions import (
    Active,
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Implies,
    Not,
    Sum,
)
from dspex_ray.variables.domains import (
    ChoiceVariable,
    Domain,
    FloatVariable,
    IntegerVariable,
    ModuleVariable,
)
from dspex_ray.variables.model import (
    Branch,
    CompositeVariable,
    ConditionalVariable,
    Constraint,
    Space,
    Variable,
)

NAMES = ("a", "b", "c", "d")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(-1e6, 1e6)


@st.composite
def floats(draw: st.DrawFn) -> FloatVariable:
    low, high = sorted((draw(numbers), draw(numbers)))
    if draw(st.booleans()):
        return FloatVariable(low=low, high=high, description=draw(texts))
    return FloatVariable(low=low, high=low + 4 * 0.25, step=0.25)


@st.composite
def integers(draw: st.DrawFn, most: int = 6) -> IntegerVariable:
    low = draw(st.integers(1, 50))
    count = draw(st.integers(1, most))
    step = draw(st.integers(1, 3))
    log = step == 1 and draw(st.booleans())
    return IntegerVariable(low=low, high=low + (count - 1) * step, step=step, log=log)


scalars = st.one_of(st.booleans(), st.integers(-99, 99), numbers, texts, st.none())


def choices() -> st.SearchStrategy[ChoiceVariable]:
    unique = st.lists(scalars, min_size=1, max_size=4, unique_by=lambda v: (isinstance(v, bool), v))
    return unique.map(lambda found: ChoiceVariable(choices=tuple(found)))


numeric_choices = st.lists(st.integers(0, 20), min_size=1, max_size=4, unique=True).map(
    lambda found: ChoiceVariable(choices=tuple(found))
)
modules = st.lists(
    st.sampled_from(["predict", "chain_of_thought", "react"]), min_size=1, unique=True
).map(lambda found: ModuleVariable(choices=tuple(found), behaviour="module"))


def domains(*, finite: bool = False) -> st.SearchStrategy[Domain]:
    finites: list[st.SearchStrategy[Any]] = [integers(), choices(), numeric_choices, modules]
    return st.one_of(*finites) if finite else st.one_of(floats(), *finites)


@st.composite
def conditions(draw: st.DrawFn, variables: dict[str, Domain], depth: int) -> Condition:
    kinds = ["compare", "active"]
    kinds += ["sum", "order"] if any(v.numeric for v in variables.values()) else []
    kinds += ["all", "any", "not", "implies"] if depth else []
    kind = draw(st.sampled_from(kinds))
    inner = conditions(variables, depth - 1)
    numeric = [name for name, v in variables.items() if v.numeric]
    match kind:
        case "active":
            return Active(variable=draw(st.sampled_from(list(variables))))
        case "compare":
            name = draw(st.sampled_from(list(variables)))
            options = variables[name].values(3)
            if draw(st.booleans()):
                value = draw(st.sampled_from(options))
                return Compare(variable=name, op=draw(st.sampled_from(["==", "!="])), value=value)
            several = draw(st.lists(st.sampled_from(options), max_size=3))
            op = draw(st.sampled_from(["in", "not in"]))
            return Compare(variable=name, op=op, value=tuple(several))
        case "order":
            name = draw(st.sampled_from(numeric))
            op = draw(st.sampled_from(["<", "<=", ">", ">="]))
            if draw(st.booleans()):
                return Compare(variable=name, op=op, other=draw(st.sampled_from(numeric)))
            return Compare(variable=name, op=op, value=draw(st.integers(-5, 60)))
        case "sum":
            names = draw(st.lists(st.sampled_from(numeric), min_size=1, unique=True))
            return Sum(
                terms={name: draw(st.sampled_from([1.0, -1.0, 0.5])) for name in names},
                op=draw(st.sampled_from(["<", "<=", ">", ">="])),
                value=draw(st.integers(-20, 100)),
            )
        case "all":
            return AllOf(of=tuple(draw(st.lists(inner, min_size=1, max_size=2))))
        case "any":
            return AnyOf(of=tuple(draw(st.lists(inner, min_size=1, max_size=2))))
        case "not":
            return Not(of=draw(inner))
        case _:
            return Implies(when=draw(inner), then=draw(inner))


@st.composite
def spaces(draw: st.DrawFn, *, finite: bool = False) -> Space:
    """Up to six variables; later ones may depend on earlier ones."""
    known: dict[str, Domain] = {}
    variables: dict[str, Variable] = {}
    dependencies: dict[str, Condition] = {}
    for name in NAMES[: draw(st.integers(1, 4))]:
        domain = draw(domains(finite=finite))
        variables[name] = domain
        if draw(st.booleans()) and known:
            dependencies[name] = draw(conditions(known, 1))
        known[name] = domain
    if draw(st.booleans()):
        case = Branch(when=draw(conditions(known, 0)), then=draw(domains(finite=finite)))
        last = draw(st.none() | domains(finite=finite))
        variables["e"] = ConditionalVariable(cases=(case,), otherwise=last)
    if draw(st.booleans()):
        inside = {"x": draw(domains(finite=finite)), "y": draw(domains(finite=finite))}
        variables["g"] = CompositeVariable(parts=dict(inside))
        dependencies["g"] = draw(conditions(known, 1))
        known |= {f"g.{name}": domain for name, domain in inside.items()}
    rules = draw(st.lists(conditions(known, 2), max_size=2))
    return Space(
        variables=variables,
        dependencies=dependencies,
        constraints=tuple(Constraint(name=f"r{k}", rule=rule) for k, rule in enumerate(rules)),
        metadata={"note": draw(texts)},
    )
