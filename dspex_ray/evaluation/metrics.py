"""Metrics: how good an answer is, 0 to 1, against what an example expects.

DSPy's own functions where DSPy has the metric. What a metric may use beside the example (models,
threads, embeddings) comes as its context, so that it runs wherever an evaluation does.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeVar

import dspy
from dspy.evaluate import metrics as dspy_metrics
from pydantic import Field, ValidationError

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.errors import DspexRayError, Invalid
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.values import Probability
from dspex_ray.evaluation.model import MetricSpec
from dspex_ray.programs.model import FieldName

Values = Mapping[str, Any]


class MetricContext(Protocol):
    """What a metric may use while it scores one answer. `inputs` names the program's inputs."""

    @property
    def inputs(self) -> frozenset[str]: ...

    @property
    def threads(self) -> Executor: ...

    def lm(self, model: str) -> Any:
        """A `dspy.LM` that calls this registered model; raises NotFound."""
        ...

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        """One vector a text from this registered model. Raises NotFound, Unavailable, Invalid."""
        ...


Scorer = Callable[[Values, Values, MetricContext], Awaitable[Any]]


@dataclass(frozen=True)
class Metric:
    """Make it with `resolve_metric`. `hash` covers all that makes the score, but for the models
    in `models`: who keeps scores adds what those are configured to."""

    name: str
    hash: str
    models: tuple[str, ...]
    scorer: Scorer

    async def score(self, example: Values, outputs: Values, context: MetricContext) -> float:
        """0 to 1. `example` holds inputs and expected outputs by field name.

        Raises an error that names the metric when it raises, or answers what is no number in
        0..1; our own errors keep their kind.
        """
        try:
            found = await self.scorer(example, outputs, context)
        except DspexRayError as error:
            details = {**error.details, "metric": self.name}
            raise type(error)(f"metric {self.name!r}: {error.message}", **details) from error
        except Exception as error:
            raise self._refused(f"raised {type(error).__name__}", "raises nothing") from error
        return self._number(found)

    def _number(self, found: Any) -> float:
        if isinstance(found, dspy.Prediction) and "score" in found:
            found = found.score
        if not isinstance(found, Real):
            raise self._refused(f"gave {type(found).__name__}, not a number", "number")
        score = float(found)
        if not math.isfinite(score):
            raise self._refused(f"gave {score}", "finite number")
        if not 0.0 <= score <= 1.0:
            raise self._refused(f"gave {score:g}, which is not in 0..1", "0 to 1")
        return score

    def _refused(self, said: str, rule: str) -> Invalid:
        return Invalid(f"metric {self.name!r} {said}", field="metrics", rule=rule, metric=self.name)


def resolve_metric(spec: MetricSpec, *, allowed_packages: Iterable[str] = ("dspy",)) -> Metric:
    """Raises Invalid, naming the field, for an unknown metric or options that it does not take.

    `allowed_packages` are those that an import path may name.
    """
    kind = KINDS.get(spec.metric)
    if kind is None and ":" not in spec.metric:
        raise Invalid(
            f"metric {spec.metric!r} is unknown (known: {', '.join(sorted(KINDS))}, or an import "
            "path as in 'package.module:function')",
            field="metrics",
            rule="known metric",
        )
    made = (kind or IMPORTED)(spec, tuple(allowed_packages))
    what = spec.model_dump(mode="json", exclude={"label"})
    return Metric(
        name=spec.name,
        hash=content_hash({**what, "code": made.code}),
        models=made.models,
        scorer=made.scorer,
    )


class Made(Protocol):
    """A metric's way to score; `code` changes when equal options begin to mean another score."""

    @property
    def code(self) -> str: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def scorer(self) -> Scorer: ...


@dataclass(frozen=True)
class Own:
    """One of the metrics of this module."""

    scorer: Scorer
    code: str = "1"
    models: tuple[str, ...] = ()


O = TypeVar("O", bound=Noun)  # noqa: E741 - options


def options_of(kind: type[O], spec: MetricSpec) -> O:
    """The options as this metric takes them; raises Invalid naming the option and its rule."""
    try:
        return kind(**spec.options)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(["options", *(str(part) for part in fault["loc"])])
        raise Invalid(
            f"metric {spec.metric!r}: {where}: {fault['msg']}",
            field=f"metrics.{where}",
            rule=fault["type"],
        ) from None


def answered(spec: MetricSpec, outputs: Values, default: str | None = None) -> tuple[str, Any]:
    """The output that the metric looks at, and its name: `field`, else the metric's usual one,
    else the only one."""
    name = spec.field or default or (next(iter(outputs)) if len(outputs) == 1 else None)
    if name is None:
        raise Invalid(
            f"there are several outputs ({', '.join(outputs)}): say which field",
            field="metrics.field",
            rule="required",
        )
    if name not in outputs:
        raise Invalid(f"there is no output {name!r}", field="metrics.field", rule="known output")
    return name, outputs[name]


def expected(spec: MetricSpec, example: Values, name: str) -> Any:
    """What the example expects of output `name`."""
    wanted = spec.expected or name
    if wanted not in example:
        raise Invalid(
            f"the example has no {wanted!r} to compare with",
            field="metrics.expected",
            rule="known field",
        )
    return example[wanted]


# --- of texts, as DSPy has them --------------------------------------------------------------


class NoOptions(Noun):
    pass


class AnswerOptions(Noun):
    """`frac` under 1: at least this F1 will do."""

    frac: Probability = 1.0


class PassageOptions(Noun):
    """`context`: the output that holds the passages."""

    context: FieldName = "context"


def _exact_match(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    options_of(NoOptions, spec)

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name, answer = answered(spec, outputs)
        return float(_same(answer, expected(spec, example, name)))

    return Own(score)


def _same(answer: Any, wanted: Any) -> bool:
    """Text as DSPy's EM normalises it, of a list any; other values when they are equal."""
    if isinstance(answer, str) and isinstance(wanted, str):
        return bool(dspy_metrics.EM(answer, [wanted]))
    if isinstance(answer, str) and _texts(wanted):
        return bool(dspy_metrics.EM(answer, wanted))
    return isinstance(answer, bool) == isinstance(wanted, bool) and bool(answer == wanted)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _f1(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    options_of(NoOptions, spec)

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name, answer = answered(spec, outputs)
        return float(dspy_metrics.F1(_text(answer, name), _references(spec, example, name)))

    return Own(score)


def _answer_exact_match(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    frac = options_of(AnswerOptions, spec).frac

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name, answer = answered(spec, outputs, "answer")
        wanted = dspy.Example(answer=_references(spec, example, name))
        given = dspy.Prediction(answer=_text(answer, name))
        return float(dspy_metrics.answer_exact_match(wanted, given, frac=frac))

    return Own(score)


def _answer_passage_match(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    where = options_of(PassageOptions, spec).context

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name = spec.field or "answer"
        passages = outputs.get(where)
        if not _texts(passages):
            raise Invalid(
                f"there is no output {where!r} with passages",
                field="metrics.options.context",
                rule="list of texts",
            )
        wanted = dspy.Example(answer=_references(spec, example, name))
        given = dspy.Prediction(context=passages)
        return float(dspy_metrics.answer_passage_match(wanted, given))

    return Own(score)


def _citation_recall(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    """The share of the expected citations that the answer cites; 1 when none is expected."""
    options_of(NoOptions, spec)

    async def score(example: Values, outputs: Values, context: MetricContext) -> float:
        name, cited = answered(spec, outputs, "citations")
        gold = expected(spec, example, name)
        if not isinstance(cited, list) or not isinstance(gold, list):
            raise Invalid(f"{name!r} must be a list", field="metrics.field", rule="list")
        wanted = {content_hash(citation) for citation in gold}
        found = {content_hash(citation) for citation in cited}
        return len(wanted & found) / len(wanted) if wanted else 1.0

    return Own(score)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"output {name!r} must be text", field="metrics.field", rule="text")
    return value


def _references(spec: MetricSpec, example: Values, name: str) -> list[str]:
    """The texts any of which will do."""
    wanted = expected(spec, example, name)
    if isinstance(wanted, str):
        return [wanted]
    if not _texts(wanted):
        raise Invalid(
            f"{spec.expected or name!r} must be text or a list of texts",
            field="metrics.expected",
            rule="text",
        )
    return list(wanted)


# --- by models ---------------------------------------------------------------------------------


class SimilarityOptions(Noun):
    """Who makes the vectors: a registered `model`, or an `embedder` as `package.module:function`
    that takes texts and gives vectors."""

    model: Name | None = None
    embedder: str | None = Field(default=None, max_length=300)


def _semantic_similarity(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    from dspex_ray.evaluation.similarity import similarity

    options = options_of(SimilarityOptions, spec)
    if (options.model is None) == (options.embedder is None):
        raise Invalid(
            "semantic_similarity needs embeddings: give options.model (a registered model that "
            "embeds) or options.embedder ('package.module:function'), one of both",
            field="metrics.options.embedder",
            rule="one of model, embedder",
        )
    return similarity(spec, options.model, options.embedder, allowed)


class JudgeOptions(Noun):
    """`rubric` tells the judge what a good answer is; `model` is the registered model that
    judges, `adapter` how it is asked (`minimal` for small models)."""

    rubric: str = Field(min_length=1, max_length=20_000)
    model: Name
    adapter: str = Field(default="chat", pattern="^(chat|json|minimal)$")
    max_tokens: int | None = Field(default=None, ge=1)


def _llm_judge(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    from dspex_ray.evaluation.judge import judge

    options = options_of(JudgeOptions, spec)
    return judge(options.rubric, options.model, options.adapter, options.max_tokens)


class ImportOptions(Noun):
    """`kwargs` of a class, or added to a function's call; `model` is what `dspy.settings.lm`
    calls meanwhile."""

    kwargs: dict[str, Any] = Field(default_factory=dict)
    model: Name | None = None


def _imported(spec: MetricSpec, allowed: tuple[str, ...]) -> Made:
    from dspex_ray.evaluation.imported import imported

    options = options_of(ImportOptions, spec)
    return imported(spec.metric, options.kwargs, options.model, allowed)


Make = Callable[[MetricSpec, tuple[str, ...]], Made]
IMPORTED: Make = _imported
KINDS: dict[str, Make] = {
    "answer_exact_match": _answer_exact_match,
    "answer_passage_match": _answer_passage_match,
    "citation_recall": _citation_recall,
    "exact_match": _exact_match,
    "f1": _f1,
    "llm_judge": _llm_judge,
    "semantic_similarity": _semantic_similarity,
}
