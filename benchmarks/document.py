"""RESULTS.md and results.json, written from the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks import tables
from benchmarks.figures import ROWS, Row
from benchmarks.rounds import Effort

OPTIMIZE = "evaluation and optimization"
_NOTHING_YET = {
    OPTIMIZE: "## Evaluation and optimization\n\nNot measured yet: `make bench-optimize`.",
    "profile": "Not profiled yet: `python -m benchmarks.run --profile`.",
    "soak": "Not soaked yet: `python -m benchmarks.soak`.",
}


@dataclass(frozen=True)
class About:
    """Of one run: its day, what it ran on and with, how long each part took."""

    day: date
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    effort: Effort


def write(folder: Path, rows: Sequence[Row], about: About) -> None:
    """Both files; the parts of RESULTS.md that a run keeps stay as they are."""
    results = folder / "RESULTS.md"
    before = results.read_text(encoding="utf-8") if results.exists() else ""
    results.write_text(document(rows, about, before), encoding="utf-8")
    (folder / "results.json").write_bytes(ROWS.dump_json(list(rows), indent=1) + b"\n")


def document(rows: Sequence[Row], about: About, before: str = "") -> str:
    keeps = {name: tables.kept(before, name) or text for name, text in _NOTHING_YET.items()}
    return f"""{_opening(rows, about)}
{_under_load(rows)}
{_alone(rows, about.effort)}
## Soak

{tables.part("soak", keeps["soak"])}
## Profile

{tables.part("profile", keeps["profile"])}
{tables.part(OPTIMIZE, keeps[OPTIMIZE])}"""


def _opening(rows: Sequence[Row], about: About) -> str:
    effort = about.effort
    return f"""# Results

Measured by `make bench` in one run on one machine, {about.day}. Each figure under load is the
median of {effort.rounds} interleaved rounds (every server in turn, {effort.seconds:g} s after
{effort.warm_up_s:g} s of warm-up) at 1, 16 and 64 connections. All servers run all the time, and
one is asked at a time; our cluster at rest takes its part of the machine meanwhile (section 5). The
load generator and the mock upstream are processes of their own on raw sockets; the line `upstream`
says what they do without a server between. `results.json` has the same figures for programs.
*ours / theirs* is a ratio of requests/s: above 1, we are ahead.
[Evaluation and optimization](#evaluation-and-optimization), measured apart, stand at the end.

## Targets

A ratio stands behind its number of connections; a target is met when it is at each.

{tables.goals(rows)}
## Machine and versions

{tables.table(["", ""], about.machine.items())}
{tables.table(["", ""], about.versions.items())}"""


def _under_load(rows: Sequence[Row]) -> str:
    return f"""## 1. Gateway: `/v1/chat/completions`

*added* is a time less the upstream's own. Ours is one gateway replica behind HAProxy, with keys,
routing, cost and records on: before another server is asked, all records are in Postgres. The bare
ingress is one replica in the same cluster, a FastAPI application that passes the body to the
upstream by aiohttp, unparsed. LiteLLM has a master key and prices, no database and one worker
(`--num_workers 1`). Portkey is one Node process that takes its upstream from headers.

{tables.by_peer(rows, "gateway", "requests")}
## 2. Programs: `dspy.Predict("question -> answer")`

Ours is `POST /v1/programs/answerer/predict`, on one replica; theirs is the application of DSPy's
deployment tutorial (`dspy.asyncify`, 4 threads) on one uvicorn worker. Both call the same upstream
for every request: DSPy's cache is off.

{tables.by_peer(rows, "programs", "requests")}"""


def _alone(rows: Sequence[Row], effort: Effort) -> str:
    return f"""## 3. Decisions of the request path

`select_model` has 20 assignments; the signature has eight fields, among them a list and a mapping.
The best of five rounds of 1,000 calls.

{tables.listing(rows, "select_model")}
{tables.listing(rows, "signature")}
## 4. Spool

The cost of a record on its request's path is capture and append, here of a record with a kilobyte
of input, a kilobyte of prompt and one failed attempt. Records are drained into an embedded
Postgres, {effort.records:,} a time, by one drain and by two side by side.

{tables.listing(rows, "record")}
{tables.listing(rows, "spool")}
## 5. Start and memory

`dspex up` until `/readyz` answers 200, in a new home and on its data again; the median of
{effort.repeats}. Memory is read ten seconds after a start, processes of one role together, and the
CPU of all of them after that.

{tables.listing(rows, "startup")}
{tables.memory(rows)}"""
