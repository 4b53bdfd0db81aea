"""Metrics: DSPy's own where DSPy has them, and what happens to those that fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.evaluate import metrics as dspy_metrics
from hypothesis import given
from hypothesis import strategies as st

from dspex_ray.core.errors import Invalid, NotFound, OutputInvalid, ProviderDown
from dspex_ray.evaluation.metrics import KINDS, Metric, resolve_metric
from dspex_ray.evaluation.model import KNOWN_METRICS, MetricSpec
from dspex_ray.testing.fake_lm import FakeEngine, chat_answer, fake_lm, prompt_of

SAMPLES = "dspex_ray.testing.sample_metrics"
ALLOWED = ("dspy", "dspex_ray.testing")
WORDS = st.lists(st.sampled_from(["the", "Eiffel", "tower", "is", "in", "Paris!", "é"])).map(
    " ".join
)


class Context:
    """What a metric may use, without any of the platform."""

    def __init__(self, threads: Executor, *answers: Any) -> None:
        self.inputs = frozenset({"question"})
        self.threads = threads
        self.engine = FakeEngine(list(answers))
        self.asked: list[str] = []

    def lm(self, model: str) -> Any:
        self.asked.append(model)
        if model == "none":
            raise NotFound("no model 'none' in this project")
        return fake_lm(self.engine)

    async def embed(self, model: str, texts: list[str]) -> list[list[float]]:
        self.asked.append(model)
        return [[1.0, 0.0] if "cat" in text else [1.0, 1.0] for text in texts]


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def resolve(metric: str, **fields: Any) -> Metric:
    return resolve_metric(MetricSpec(metric=metric, **fields), allowed_packages=ALLOWED)


async def score(
    threads: Executor, metric: Metric, example: dict[str, Any], outputs: dict[str, Any]
) -> float:
    return await metric.score(example, outputs, Context(threads))


# --- DSPy's own ------------------------------------------------------------------------------


@given(answer=WORDS, wanted=st.one_of(WORDS, st.lists(WORDS, min_size=1)))
async def test_of_texts_they_score_as_dspy_does(
    threads: Executor, answer: str, wanted: str | list[str]
) -> None:
    references = wanted if isinstance(wanted, list) else [wanted]
    example, outputs = {"answer": wanted}, {"answer": answer}
    passages = {"answer": answer, "context": [answer, "elsewhere"]}
    gold = dspy.Example(answer=wanted)
    pairs = {
        "exact_match": dspy_metrics.EM(answer, references),
        "f1": dspy_metrics.F1(answer, references),
        "answer_exact_match": dspy_metrics.answer_exact_match(gold, dspy.Prediction(**outputs)),
        "answer_passage_match": dspy_metrics.answer_passage_match(
            gold, dspy.Prediction(**passages)
        ),
    }
    for name, theirs in pairs.items():
        metric = resolve(name, field="answer")
        assert await score(threads, metric, example, passages) == float(theirs), name


async def test_a_fraction_will_do_when_it_is_asked_for(threads: Executor) -> None:
    example, outputs = {"answer": "the big Eiffel tower"}, {"answer": "Eiffel tower"}
    half = resolve("answer_exact_match", options={"frac": 0.5})
    assert await score(threads, half, example, outputs) == 1.0
    assert await score(threads, resolve("answer_exact_match"), example, outputs) == 0.0


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("The  Paris!", "paris", 1.0),
        ("rome", ["Paris", "Rome"], 1.0),
        (3, 3.0, 1.0),
        (True, True, 1.0),
        (True, 1, 0.0),
        (["a", "b"], ["a", "b"], 1.0),
        ({"a": 1}, {"a": 2}, 0.0),
        (None, "none", 0.0),
    ],
)
async def test_exact_match_of_any_value(
    threads: Executor, answer: Any, wanted: Any, same: float
) -> None:
    assert await score(threads, resolve("exact_match"), {"x": wanted}, {"x": answer}) == same


@pytest.mark.parametrize(
    ("cited", "gold", "share"),
    [([1, 2], [2, 3], 0.5), ([], [1], 0.0), ([1], [], 1.0), ([2, 2, 1], [1, 2], 1.0)],
)
async def test_citation_recall(
    threads: Executor, cited: list[int], gold: list[int], share: float
) -> None:
    outputs = {"citations": cited, "answer": "x"}
    assert await score(threads, resolve("citation_recall"), {"citations": gold}, outputs) == share


async def test_another_field_of_the_example_can_be_expected(threads: Executor) -> None:
    metric = resolve("exact_match", field="topic", expected="label")
    assert metric.name == "exact_match:topic"
    outputs = {"topic": "sport", "reason": "x"}
    assert await score(threads, metric, {"label": "Sport"}, outputs) == 1.0


# --- by models ---------------------------------------------------------------------------------


async def test_similarity_by_an_embedder(threads: Executor) -> None:
    metric = resolve("semantic_similarity", options={"embedder": f"{SAMPLES}:letters"})
    assert await score(threads, metric, {"a": "ea"}, {"a": "ae"}) == pytest.approx(1.0)
    assert await score(threads, metric, {"a": "i"}, {"a": "a"}) == 0.0
    with pytest.raises(Invalid, match="an embedding is zero"):
        await score(threads, metric, {"a": "xyz"}, {"a": "a"})
    odd = resolve("semantic_similarity", options={"embedder": f"{SAMPLES}:uneven"})
    with pytest.raises(Invalid):
        await score(threads, odd, {"a": "i"}, {"a": "a"})


async def test_similarity_by_a_registered_model(threads: Executor) -> None:
    metric = resolve("semantic_similarity", options={"model": "vectors"})
    context = Context(threads)
    found = await metric.score({"a": "cat"}, {"a": "dog"}, context)
    assert found == pytest.approx(0.5**0.5)
    assert (context.asked, metric.models) == (["vectors"], ("vectors",))


def test_without_an_embedder_there_is_no_similarity() -> None:
    with pytest.raises(Invalid, match="needs embeddings") as refused:
        resolve("semantic_similarity")
    assert (refused.value.field, refused.value.rule) == (
        "metrics.options.embedder",
        "one of model, embedder",
    )


async def test_a_judge_reads_rubric_task_reference_and_answer(threads: Executor) -> None:
    metric = resolve("llm_judge", options={"rubric": "Be short.", "model": "strict"})
    context = Context(threads, chat_answer(grounds="short enough", score=0.75))
    found = await metric.score({"question": "Who?", "answer": "Ada"}, {"answer": "Ada L."}, context)
    assert (found, context.asked, metric.models) == (0.75, ["strict"], ("strict",))
    prompt = prompt_of(context.engine.requests[0])
    for part in ("Be short.", '{"question": "Who?"}', '{"answer": "Ada"}', '{"answer": "Ada L."}'):
        assert part in prompt
    assert context.engine.requests[0].config.temperature == 0.0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (chat_answer(grounds="x", score=1.5), OutputInvalid),
        ("no fields at all", OutputInvalid),
        (ProviderDown("every model failed"), ProviderDown),
    ],
)
async def test_what_a_judge_says_wrong_names_the_metric(
    threads: Executor, answer: Any, kind: type[Exception]
) -> None:
    metric = resolve("llm_judge", options={"rubric": "r", "model": "m"}, label="judged")
    with pytest.raises(kind, match="metric 'judged'"):
        await metric.score({"question": "q"}, {"answer": "a"}, Context(threads, answer))


# --- a user's own --------------------------------------------------------------------------------


async def test_functions_and_modules_of_allowed_packages(threads: Executor) -> None:
    example, outputs = {"answer": "red blue"}, {"answer": "blue"}
    assert await score(threads, resolve(f"{SAMPLES}:shares_a_word"), example, outputs) == 1.0
    assert await score(threads, resolve(f"{SAMPLES}:in_five"), example, outputs) == 0.8
    two = resolve(f"{SAMPLES}:in_five", options={"kwargs": {"most": 2}})
    assert await score(threads, two, example, outputs) == 0.4
    assert await score(threads, resolve(f"{SAMPLES}:later"), example, outputs) == 0.25
    judged = resolve(f"{SAMPLES}:Judged", options={"kwargs": {"best": "A"}, "model": "m"})
    context = Context(threads, chat_answer(grade="A"))
    assert await judged.score(example, outputs, context) == 1.0
    assert (context.asked, judged.models) == (["m"], ("m",))


async def test_dspys_own_judge_is_such_a_module(threads: Executor) -> None:
    metric = resolve("dspy.evaluate.auto_evaluation:SemanticF1", options={"model": "m"})
    context = Context(threads, chat_answer(reasoning="r", recall=1.0, precision=0.5))
    example = {"question": "q", "response": "a b"}
    assert await metric.score(example, {"response": "a"}, context) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "said", "rule"),
    [
        ("raises", "raised KeyError", "raises nothing"),
        ("not_a_number", "gave nan", "finite number"),
        ("says_none", "gave NoneType, not a number", "number"),
        ("over_one", "gave 5, which is not in 0..1", "0 to 1"),
    ],
)
async def test_a_metric_that_fails_is_named_without_content(
    threads: Executor, name: str, said: str, rule: str
) -> None:
    metric = resolve(f"{SAMPLES}:{name}", label="mine")
    with pytest.raises(Invalid) as failed:
        await score(threads, metric, {"answer": "secret"}, {"answer": "secret"})
    assert failed.value.message == f"metric 'mine' {said}"
    assert (failed.value.field, failed.value.rule) == ("metrics", rule)


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"metric": "bleu"}, "metrics", "known metric"),
        ({"metric": "os:system"}, "metrics.metric", "allowed packages"),
        ({"metric": f"{SAMPLES}:nothing"}, "metrics.metric", "importable"),
        ({"metric": f"{SAMPLES}:dspy"}, "metrics.metric", "function"),
        ({"metric": f"{SAMPLES}:takes_one"}, "metrics.metric", "takes example and prediction"),
        ({"metric": "dspy:LM"}, "metrics.metric", "dspy.Module"),
        ({"metric": "f1", "options": {"frac": 1}}, "metrics.options.frac", "extra_forbidden"),
        ({"metric": "llm_judge", "options": {"model": "m"}}, "metrics.options.rubric", "missing"),
        (
            {"metric": "semantic_similarity", "options": {"embedder": "os:listdir"}},
            "metrics.options.embedder",
            "allowed packages",
        ),
    ],
)
def test_what_is_no_metric_is_refused(fields: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        resolve_metric(MetricSpec(**fields), allowed_packages=ALLOWED)
    assert (refused.value.field, refused.value.rule) == (field, rule)


async def test_missing_fields_are_named(threads: Executor) -> None:
    several = {"a": "x", "b": "y"}
    for metric, example, outputs, rule in (
        (resolve("f1"), {"a": "x"}, several, "required"),
        (resolve("f1", field="c"), {"c": "x"}, several, "known output"),
        (resolve("f1", field="a"), {"b": "x"}, several, "known field"),
        (resolve("f1", field="a"), {"a": 3}, several, "text"),
        (resolve("answer_passage_match"), {"answer": "x"}, {"context": "x"}, "list of texts"),
    ):
        with pytest.raises(Invalid) as refused:
            await score(threads, metric, example, outputs)
        assert refused.value.rule == rule


def test_the_hash_is_of_what_makes_the_score() -> None:
    hashes = {
        resolve("exact_match").hash,
        resolve("exact_match", field="a").hash,
        resolve("f1", field="a").hash,
        resolve("llm_judge", options={"rubric": "r", "model": "m"}).hash,
        resolve("llm_judge", options={"rubric": "s", "model": "m"}).hash,
        resolve(f"{SAMPLES}:later").hash,
    }
    assert len(hashes) == 6
    assert resolve("exact_match", label="x").hash == resolve("exact_match").hash


def test_known_metrics() -> None:
    assert tuple(sorted(KINDS)) == KNOWN_METRICS
