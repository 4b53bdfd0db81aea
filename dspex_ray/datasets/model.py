"""Dataset, version, example: rows by field name, content-hashed, immutable once imported."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from dspex_ray.core.ids import DatasetId, DatasetVersionId, ProjectId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.page import DEFAULT_LIMIT, MAX_LIMIT
from dspex_ray.traces.model import Source

MAX_FAULTS = 100  #: bad rows that an error names; it counts all of them

SplitSizes = Annotated[dict[Name, Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=20)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class DatasetType(StrEnum):
    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"
    CUSTOM = "custom"


class SourceKind(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    PYTHON = "python"
    EXECUTIONS = "executions"


#: How rows are sent: the Content-Type of an upload, and the format that it says.
MEDIA_TYPES = {
    "application/x-ndjson": SourceKind.JSONL,
    "text/csv": SourceKind.CSV,
    "application/vnd.apache.parquet": SourceKind.PARQUET,
}


class Example(Noun):
    """One row. `hash` is the SHA-256 of the canonical JSON of `values`: equal rows, equal hash.

    `number` is the row's place in its version, from 0, in the order of import.
    """

    hash: str
    values: dict[str, Any]
    number: int = Field(ge=0)


class FieldSummary(Noun):
    """What a version holds in one field, over all its examples.

    `type` is the text of a signature's type (`float | str`); null says nothing about it.
    `counts` has the examples by the type of their value. `distinct` is None when there are more
    different values than are counted. Lengths are characters of text or items of a list.
    """

    name: str
    type: str
    nullable: bool
    counts: dict[str, int]
    missing: int = Field(ge=0, description="examples without this field")
    distinct: int | None = None
    shortest: int | None = None
    longest: int | None = None
    mean_length: float | None = None
    least: float | None = None
    greatest: float | None = None
    mean: float | None = None


class ExecutionFilter(Noun):
    """Which executions of a program become examples: those whose inputs were captured.

    An example holds the inputs and what was expected, as the newest feedback with `expected`
    says; without any, the outputs, if the execution completed. `min_score` is held against the
    newest feedback with a score.
    """

    program: Name
    version: int | None = Field(default=None, ge=1)
    min_score: float | None = Field(default=None, ge=0, le=1)
    expected_only: bool = Field(default=False, description="only those whose feedback expects")
    source: Source = Source.SERVING
    since: AwareDatetime | None = None
    until: AwareDatetime | None = Field(default=None, description="exclusive")
    limit: int = Field(default=10_000, ge=1, le=1_000_000, description="the newest, at most")


class VersionSource(Noun):
    """Where a version's rows come from. `name` is a file's name, or the import path of the
    function that made the rows on the caller's machine."""

    kind: SourceKind
    name: str | None = Field(default=None, max_length=300)
    executions: ExecutionFilter | None = None


class Dataset(Noun):
    id: DatasetId
    project_id: ProjectId
    name: Name
    description: str = ""
    type: DatasetType = DatasetType.TRAINING
    metadata: dict[str, Any] = Field(default_factory=dict)
    latest_version: int | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class DatasetVersion(Noun):
    """Immutable. `hash` is the SHA-256 of its examples' hashes (32 bytes each) in order.

    `duplicates` counts the examples that equal an earlier one; `bytes` is the canonical JSON of
    all values.
    """

    id: DatasetVersionId
    project_id: ProjectId
    dataset_id: DatasetId
    number: int = Field(ge=1)
    hash: str
    source: VersionSource
    examples: int = Field(ge=1)
    duplicates: int = Field(ge=0)
    bytes: int = Field(ge=0)
    fields: tuple[FieldSummary, ...]
    created_by: str
    created_at: datetime


class NewDataset(Noun):
    name: Name
    description: str = ""
    type: DatasetType = DatasetType.TRAINING
    metadata: dict[str, Any] = Field(default_factory=dict)


class DatasetUpdate(Noun):
    description: str | None = None
    type: DatasetType | None = None
    metadata: dict[str, Any] | None = None


class RowFault(Noun):
    """Why a row is refused. Never says the value.

    `row` counts from 0, as Example.number does; `line` is the line of the file on which the row
    begins, from 1. `field` is "row" for what concerns the row as a whole.
    """

    row: int = Field(ge=0)
    field: str
    rule: str
    message: str
    line: int | None = None


class SignatureCheck(Noun):
    """The program to check against: its newest version, unless `program_version` says which.

    Faults are named from row `start` on, of `limit` rows at most; all of them are counted.
    """

    program: Name
    program_version: int | None = Field(default=None, ge=1)
    start: int = Field(default=0, ge=0)
    limit: int = Field(default=MAX_FAULTS, ge=1, le=10_000)


class CheckReport(Noun):
    """Whether a program can run on every example, and is told what to answer.

    An output that no example holds is in `absent_outputs` and no fault: there is nothing to
    compare with. `unused` are fields that the signature does not name. `next_start` is the row to
    go on with when there are more faults.
    """

    dataset: str
    version: int
    program: str
    program_version: int
    examples: int
    bad_rows: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    absent_outputs: tuple[str, ...]
    unused: tuple[str, ...]
    faults: tuple[RowFault, ...]
    next_start: int | None = None


class NewDatasetSplit(Noun):
    sizes: SplitSizes
    seed: Seed = 0


class SplitPart(Noun):
    """`fingerprint` is the hash of the part's example hashes in its order."""

    name: str
    examples: int
    fingerprint: str


class DatasetSplit(Noun):
    """What a split comes to: the same on every machine. `fingerprint` covers all its parts."""

    dataset: str
    version: int
    seed: int
    sizes: dict[str, int]
    parts: tuple[SplitPart, ...]
    unused: int = Field(ge=0, description="examples in no part")
    fingerprint: str


class ExampleQuery(Noun):
    """Which examples, in which order: all as imported; or those of a part of a split, of a seeded
    sample, or held out by a fold, in their seeded order.

    `sizes` is a split's sizes as text (`train=60,dev=40`) and goes with `split`.
    """

    split: str | None = None
    sizes: str | None = Field(default=None, max_length=2_000)
    sample: int | None = Field(default=None, ge=1)
    fold: int | None = Field(default=None, ge=0)
    folds: int | None = Field(default=None, ge=2)
    seed: Seed = 0
    cursor: str | None = None
    limit: int = Field(default=DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
