"""The simulated model: what it is worth is what it shows, and prompts say who is asking."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.optimize.engine import simulated_lm
from benchmarks.optimize.quality import start, true_quality
from benchmarks.optimize.simulated import (
    START,
    TOPICS,
    Hidden,
    SimulatedModel,
    Turn,
    asked_fields,
    examples,
    label_of,
    read_prompt,
)
from dspex_ray.optimization.edits import with_demos, with_instructions
from dspex_ray.programs.runtime import load_program, run_program

_TEXTS = [str(example.values["text"]) for example in examples(60)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_candidate_is_right_as_often_as_its_quality_says(seed: int) -> None:
    hidden, demos = Hidden(seed), _TEXTS[:6]
    asked = [str(example.values["text"]) for example in examples(4000, start=1000)]
    for instructions, shown in ((START, []), ("Say which.", demos)):
        share = sum(hidden.right(instructions, shown, text) for text in asked) / len(asked)
        assert share == pytest.approx(hidden.quality(instructions, shown), abs=0.03)


@given(st.integers(0, 50), st.text(max_size=20), st.lists(st.sampled_from(_TEXTS), max_size=8))
def test_a_quality_is_a_probability_that_order_repeats_and_blanks_do_not_change(
    seed: int, instructions: str, demos: list[str]
) -> None:
    found = Hidden(seed).quality(instructions, demos)
    assert 0.02 <= found <= 0.98
    again = [*demos, *demos]
    random.Random(seed).shuffle(again)
    assert Hidden(seed).quality(f" {instructions}\n", again) == found


def test_seeds_hide_other_qualities_and_start_from_the_same() -> None:
    assert {Hidden(seed).quality(START, []) for seed in range(5)} == {0.30}
    assert len({Hidden(seed).quality("Say which.", _TEXTS[:4]) for seed in range(5)}) == 5


def test_hard_examples_are_hard_for_other_candidates_too() -> None:
    hidden, asked = Hidden(3), [str(e.values["text"]) for e in examples(2000, start=1000)]
    one = [hidden.right("Say which.", _TEXTS[:6], text) for text in asked]
    other = [hidden.right("Name it.", _TEXTS[6:12], text) for text in asked]
    both = sum(a and b for a, b in zip(one, other, strict=True)) / len(asked)
    by_chance = sum(one) / len(asked) * sum(other) / len(asked)
    assert both > 1.5 * by_chance


def test_topics_are_about_even() -> None:
    counts = Counter(example.values["topic"] for example in examples(1000))
    assert set(counts) == set(TOPICS)
    assert min(counts.values()) > 150


async def test_a_prompt_shows_the_candidate_that_its_artifact_holds() -> None:
    hidden, shown = Hidden(1), examples(5)
    artifact = with_instructions(start(), "main", "Read it.\nThen say which topic it has.")
    artifact = with_demos(artifact, "main", [example.values for example in shown])
    quality = true_quality(hidden, artifact)
    assert quality != true_quality(hidden, start())
    program = load_program(artifact, allowed_packages=())
    lm = simulated_lm(SimulatedModel(hidden))
    texts = [str(example.values["text"]) for example in examples(30, start=100)]
    with ThreadPoolExecutor(1) as threads:
        runs = [run_program(program, {"text": text}, lm=lm, threads=threads) for text in texts]
        found = await asyncio.gather(*runs)
    demos = [str(example.values["text"]) for example in shown]
    told = "Read it. Then say which topic it has."
    for text, outputs in zip(texts, found, strict=True):
        assert (outputs["topic"] == label_of(text)) is hidden.right(told, demos, text)


def test_a_wrong_topic_is_a_topic() -> None:
    asked = SimulatedModel(Hidden(0))
    found = {_topic(asked, str(e.values["text"])) for e in examples(50)}
    assert found <= set(TOPICS)
    assert len(found) > 1


def test_what_is_no_prompt_of_the_adapter_asks_for_nothing() -> None:
    assert asked_fields([]) == []
    assert asked_fields([Turn("user", "ping")]) == []


def test_another_text_is_made_up_each_time() -> None:
    lm = simulated_lm(SimulatedModel(Hidden(0)))
    ask = dspy.Predict("basic_instruction -> proposed_instruction")
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        found = {ask(basic_instruction=START).proposed_instruction for _ in range(4)}
    assert len(found) == 4


def test_both_paths_of_the_engine_answer_the_same() -> None:
    ask = dspy.Predict(dspy.Signature("text -> topic: str", START))

    async def later(text: str) -> Any:
        return await ask.acall(text=text)

    with dspy.context(lm=simulated_lm(SimulatedModel(Hidden(0))), adapter=dspy.ChatAdapter()):
        for text in _TEXTS[:5]:
            assert ask(text=text).topic == asyncio.run(later(text)).topic


def _topic(model: SimulatedModel, text: str) -> str:
    asked = f"[[ ## text ## ]]\n{text}\n\nRespond, starting with the field `[[ ## topic ## ]]`"
    turns = [Turn("user", f"{asked}, and then ending with the marker.")]
    assert read_prompt(f"your objective is: {START}", turns).text == text
    return model.answer(f"your objective is: {START}", turns).split("\n")[1]
