"""Instructions to try: the program's own, some made of its fields, some that a model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
from dspy.teleprompt.copro_optimizer import BasicGenerateInstruction

from dspex_ray.datasets.model import Example
from dspex_ray.optimization.edits import Predictor, with_instructions
from dspex_ray.optimization.model import Problem
from dspex_ray.optimization.workbench import Workbench
from dspex_ray.programs.adapters import adapter_for
from dspex_ray.programs.model import Artifact
from dspex_ray.programs.rules import REASONING
from dspex_ray.routing.scope import SETTING, find_scope

_MOST_CHOICES = 12
LONGEST = 2000  #: characters of a proposed instruction

Wording = dict[str, str]  # instructions by predictor


class _Rewrite(dspy.Signature):  # type: ignore[misc] # dspy is Any to mypy
    """Write one better instruction for a language model out of the given ones: keep what helps,
    say it clearly, and add what they leave out."""

    given_instructions: str = dspy.InputField(desc="of the same task")
    proposed_instruction: str = dspy.OutputField(desc="the better instruction, its text alone")


def plain_wordings(
    predictors: Sequence[Predictor], examples: Sequence[Example], extra: Sequence[str] = ()
) -> list[Wording]:
    """The program's own first; then what its fields and the expected values suggest; then those
    given. Each text is tried on all predictors at once; none stands twice."""
    own = {p.name: p.instructions for p in predictors}
    made = [{p.name: _rewordings(p, examples)[i] for p in predictors} for i in range(2)]
    given = [dict.fromkeys(own, text) for text in extra]
    return _distinct([own, *made, *given])


async def proposed_wordings(
    problem: Problem, bench: Workbench, predictors: Sequence[Predictor], count: int
) -> list[Wording]:
    """Up to `count` that the prompt model writes, by COPRO's own signature; fewer when its
    answers cannot be read. Takes `count` calls a predictor. Raises RunHalted."""
    if count < 1:
        return []
    written = {p.name: await _written(problem, bench, p.instructions, count) for p in predictors}
    most = max((len(texts) for texts in written.values()), default=0)
    return _distinct(
        [
            {p.name: (written[p.name][i : i + 1] or [p.instructions])[0] for p in predictors}
            for i in range(most)
        ]
    )


async def rewritten(problem: Problem, bench: Workbench, instructions: Sequence[str]) -> str | None:
    """One text that the prompt model makes of others; None when its answer cannot be read. Takes
    one call. Raises RunHalted."""
    ask = dspy.Predict(_Rewrite, temperature=1.0)
    texts = await _asked(problem, bench, ask, given_instructions="\n---\n".join(instructions))
    return texts[0] if texts else None


def worded(artifact: Artifact, wording: Wording) -> Artifact:
    for name, text in wording.items():
        artifact = with_instructions(artifact, name, text)
    return artifact


def _rewordings(predictor: Predictor, examples: Sequence[Example]) -> tuple[str, str]:
    inputs = _listed(predictor.inputs)
    outputs = _listed([name for name in predictor.outputs if name != REASONING.name])
    choices = _choices(predictor, examples)
    one_of = f" Answer with one of: {', '.join(choices)}." if choices else ""
    return (
        f"Read the {inputs} and give the {outputs}.{one_of}",
        f"{predictor.instructions}{one_of or ' Be exact and brief.'}",
    )


def _choices(predictor: Predictor, examples: Sequence[Example]) -> list[str]:
    """The values that the only output is expected to have, when there are few and they recur."""
    names = [name for name in predictor.outputs if name != REASONING.name]
    if len(names) != 1:
        return []
    values = [e.values[names[0]] for e in examples if isinstance(e.values.get(names[0]), str)]
    found = sorted(set(values))
    recurring = 2 <= len(found) <= min(_MOST_CHOICES, len(values) / 2)
    return found if recurring and all(len(value) <= 40 for value in found) else []


async def _written(problem: Problem, bench: Workbench, instruction: str, count: int) -> list[str]:
    ask = dspy.Predict(BasicGenerateInstruction, n=count, temperature=1.0)
    return await _asked(problem, bench, ask, basic_instruction=instruction)


async def _asked(problem: Problem, bench: Workbench, ask: Any, **inputs: Any) -> list[str]:
    """The texts that the prompt model proposes, each once; none when it proposes none."""
    settings: dict[str, Any] = {
        "lm": bench.prompt_lm,
        "adapter": adapter_for(problem.artifact.adapter),
        "callbacks": [],
        "disable_history": True,
        "trace": None,
        "track_usage": False,
        SETTING: find_scope(),
    }
    with dspy.context(**settings):
        try:
            answer = await ask.acall(**inputs)
        except Exception:  # a model that cannot write instructions is no reason to stop
            return []
    texts = [
        str(text).strip().strip('"').strip() for text in answer.completions.proposed_instruction
    ]
    return [text for text in dict.fromkeys(texts) if text and len(text) <= LONGEST]


def _distinct(wordings: Sequence[Wording]) -> list[Wording]:
    found: list[Wording] = []
    for wording in wordings:
        if wording not in found:
            found.append(wording)
    return found


def _listed(names: Sequence[str]) -> str:
    spoken = [name.replace("_", " ") for name in names]
    return " and the ".join(spoken)
