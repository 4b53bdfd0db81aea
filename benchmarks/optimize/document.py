"""Tables and results.json, written from the same rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks import document as main
from benchmarks import machine
from benchmarks.optimize import evaluation, overhead, quality, resume, runs, tables, volumes
from benchmarks.optimize.effort import Effort
from benchmarks.optimize.figures import ROWS, Row
from benchmarks.tables import kept, part, replaced, table

PART: Final = main.OPTIMIZE  # of benchmarks/RESULTS.md
PROFILE: Final = "profile of evaluation"
_NO_PROFILE: Final = "Nothing is told yet of what was missed."
_VERSIONS: Final = ("commit", "Python", "dspex-ray", "ray", "dspy", "Postgres")


@dataclass(frozen=True)
class About:
    """Of one run: its day, what it ran on and with, how much it measured."""

    day: date
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    effort: Effort


def versions() -> dict[str, str]:
    found = machine.versions()
    return {**{name: found[name] for name in _VERSIONS}, "optuna": version("optuna")}


def write(folder: Path, rows: Sequence[Row], about: About, within: Path | None = None) -> Path:
    """results.json in the folder, and the tables in the file that is returned: `within`, whose part
    they become, or the folder's RESULTS.md. What a run keeps of it stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_bytes(ROWS.dump_json(list(rows), indent=1) + b"\n")
    results = within or folder / "RESULTS.md"
    before = results.read_text(encoding="utf-8") if results.exists() else ""
    text = document(rows, about, before)
    if within is not None:
        text = replaced(before, PART, re.sub("^#", "##", text, flags=re.MULTILINE))
    results.write_text(text, encoding="utf-8")
    return results


def document(rows: Sequence[Row], about: About, before: str = "") -> str:
    return f"""{_opening(rows, about)}
{_evaluation(rows, about.effort)}
{_quality(rows, about.effort)}
{_platform(rows, about.effort)}
## 5. Fronts: hypervolume at equal evaluations

Measured apart, by `python -m benchmarks.optimize.hypervolume`, which says what the landscapes are.
Medians of {volumes.seeds_measured()} and their quartiles, as a share of the box that could be
dominated; on how many of the seeds ours is ahead, and Wilcoxon's p of that.

{tables.by_who(rows, volumes.ITEM)}
## Profile

{part(PROFILE, kept(before, PROFILE) or _NO_PROFILE)}"""


def _opening(rows: Sequence[Row], about: About) -> str:
    return f"""# Evaluation and optimization

Measured by `make bench-optimize` in one run on one machine, {about.day}. The models are simulated:
servers on this machine, or engines in the process, that answer after a fixed time. Each figure is a
median of {about.effort.rounds} interleaved rounds, or of the seeds or kills that its section names,
with the least and the greatest behind it. `optimize/results.json` has the same for programs.

## Targets

{tables.goals(rows)}
## Machine and versions

{table(["", ""], about.machine.items())}
{table(["", ""], about.versions.items())}"""


def _evaluation(rows: Sequence[Row], effort: Effort) -> str:
    each = f"{effort.examples} examples at {evaluation.LATENCY_MS:g} ms a call"
    return f"""## 1. An evaluation of {each}

The same `dspy.Predict`, examples, metric and endpoint (HTTP on this machine), the same score.
`dspy.Evaluate` runs in a process of its own with so many threads, without DSPy's cache. Ours is an
Evaluation of a running instance, with so many examples at once over so many actors, all on this
machine and sharing its cores with the instance: routed, metered, every call and result recorded in
Postgres. *CPU* is that of all processes of whoever evaluates: of the whole instance, what it takes
at rest included, but not of the model. Defaults are {evaluation.SETTINGS.concurrency} examples at
once for ours, 8 threads for DSPy's. Actors run already when it starts; nothing comes from a cache.

{tables.by_who(rows, evaluation.ITEM)}
### More nodes

Simulated: a node is an actor that has {evaluation.PER_NODE} examples at once, whose limit is the
model it waits for and not this machine, on which all of them run. What it shows is that our part
(the pool, one coordinator, records) does not hold more nodes back, not what a network costs.

{tables.by_case(rows, evaluation.NODES_ITEM)}"""


def _quality(rows: Sequence[Row], effort: Effort) -> str:
    return f"""## 2. Calls and time to a true quality

Medians of {effort.seeds} seeds. The model takes {quality.LATENCY_S * 1000:g} ms a call and is right
about an example by a draw whose probability is the candidate's true quality: 0.30 for the first
instructions without demos, up to 0.25 more by other instructions (most add little), up to 0.40 more
or less by the demos, each of which has a worth of its own. Examples differ in difficulty for all
candidates alike (correlation 0.5). An optimizer sees only right and wrong answers on
{quality.TRAIN} train and {quality.DEV} dev examples, with {quality.THREADS} program runs at once,
and may ask the model for instructions, which are worth what the seed says. All three have their
defaults, but for up to {quality.DEMOS} demos of each.
DSPy's are its own code, run by our registry. *{quality.WHOLE}* is all that it does; its time is of
the first {effort.timed} seeds, the others do not wait for the model. *{quality.MEAN}*: the true
quality of what would be handed back after so many calls, and the calls until that mean is what the
optimizer ends with. The last tables are search by search: a target is the true quality that the
best quarter, or tenth, of blindly drawn programs has, reached when what would be handed back has it
and keeps it to the end; `n of m`: in so many of the seeds. One lucky program reaches them, so that
they tell less of a search than the mean does. *{quality.ADVANTAGE}* is there seed by seed; who does
not get there counts with all its calls, and is 0 where we do not.

{tables.by_who(rows, quality.ITEM)}"""


def _platform(rows: Sequence[Row], effort: Effort) -> str:
    return f"""## 3. What the platform costs

A model that answers at once, {effort.runs} examples a round. `{overhead.BENCH}` is what optimizers
measure candidates with (budget, ledger, metric) in one process; `{overhead.RUN}` is a DspexSearch
of a running instance, a Ray job: an answer is in Postgres before the optimizer sees it.

{tables.by_who(rows, overhead.EXAMPLES)}
A whole run of it, with {runs.TRAIN} train and {runs.DEV} dev examples:

{tables.by_case(rows, overhead.RUNS)}
A trial, from one to the next, of optimizers whose trials Ray Tune drives; on the workbench the same
optimizer runs them on its event loop:

{tables.by_case(rows, overhead.TRIALS)}
## 4. A run that is killed

A DspexSearch at {resume.LATENCY_MS:g} ms a call with {runs.THREADS} at once is killed half way, at
a random moment; kills of each kind: {effort.kills}. The provider counts: *{resume.TWICE}* are
prompts that it had answered and was asked again. Calls under way are asked again, too: those that
it had not answered, and those whose answer it sent less than {resume.ON_THE_WAY_S * 1000:g} ms
before the kill, or after it, and that was not in Postgres yet. *until it went on* is from the kill
to the next call.

{tables.by_case(rows, resume.ITEM)}"""
