"""Signature, module, program, version: what a program is, as data."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from operator import not_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from dspex_ray.core.ids import ProgramId, ProjectId, VersionId
from dspex_ray.core.noun import Name, Noun
from dspex_ray.core.states import Machine
from dspex_ray.variables.model import Configuration, Figures, Space

ARTIFACT_SCHEMA = 1

FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class FieldSpec(Noun):
    """One field of a signature. `type` is canonical text, such as `list[str]` or
    `Literal['a', 'b']` (programs/types.py says which)."""

    name: FieldName
    type: str = "str"
    description: str = ""
    optional: bool = False
    default: Any = None


class SignatureSpec(Noun):
    """Inputs and outputs by name, with the instructions a model reads."""

    inputs: tuple[FieldSpec, ...] = Field(min_length=1)
    outputs: tuple[FieldSpec, ...] = Field(min_length=1)
    instructions: str = ""


class ModuleType(StrEnum):
    PREDICT = "predict"
    CHAIN_OF_THOUGHT = "chain_of_thought"


class GenerationConfig(Noun):
    """Generation parameters of one predictor; None leaves the model's own default."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: tuple[str, ...] = ()


class ModuleSpec(Noun):
    """A predictor: its type, signature, demos and parameters.

    `inputs` binds an input field of this module to `<module>.<output field>`; a field that is
    not bound takes the program input of its own name.
    """

    type: ModuleType
    signature: SignatureSpec
    config: GenerationConfig = GenerationConfig()
    demos: tuple[dict[str, Any], ...] = ()
    inputs: dict[FieldName, str] = Field(default_factory=dict)


class AdapterName(StrEnum):
    CHAT = "chat"  #: DSPy's ChatAdapter, without its hidden second call
    JSON = "json"  #: DSPy's JSONAdapter
    MINIMAL = "minimal"  #: a short prompt and JSON-schema-constrained output, for small models


def _absent(space: Space | None) -> bool:
    return space is None


# Left out of the JSON where there is none: an artifact without variables is what it always was.
DeclaredSpace = Annotated[Space | None, Field(exclude_if=_absent)]

# Which registered model answers, by predictor as assignments name it; "" stands for all that are
# not named. The assignments come after it.
ModelPins = Annotated[dict[str, Name], Field(exclude_if=not_)]


class ModulesArtifact(Noun):
    """A program made of modules; they run in dependency order, independent ones side by side.

    `outputs` maps a program output to `<module>.<output field>`.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["modules"] = "modules"
    signature: SignatureSpec
    modules: dict[FieldName, ModuleSpec] = Field(min_length=1)
    outputs: dict[FieldName, str]
    adapter: AdapterName = AdapterName.CHAT
    models: ModelPins = Field(default_factory=dict)
    space: DeclaredSpace = None


class ImportArtifact(Noun):
    """A `dspy.Module` class from an allow-listed installed package, with its JSON state.

    `source_sha256` is the SHA-256 of the class's module file; another source is refused.
    `structure_hash` covers predictor paths and field names and types; state for another
    structure is refused. `predictor_configs` holds what DSPy's state JSON leaves out.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["import"] = "import"
    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    kwargs: dict[str, Any] = Field(default_factory=dict)
    signature: SignatureSpec
    source_sha256: str
    structure_hash: str
    state: dict[str, Any] = Field(default_factory=dict)
    predictor_configs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    adapter: AdapterName = AdapterName.CHAT
    models: ModelPins = Field(default_factory=dict)
    space: DeclaredSpace = None


Artifact = Annotated[ModulesArtifact | ImportArtifact, Field(discriminator="kind")]


class CapturePolicy(Noun):
    """How much of a program's content is kept, for how long.

    `redacted` replaces every match of `patterns` (regular expressions) and of the built-in
    ones (e-mail addresses, card numbers, keys) by a mark before anything is written.
    """

    mode: Literal["full", "redacted", "none"] = "redacted"
    patterns: tuple[str, ...] = ()
    retention_days: int = Field(default=30, ge=1, le=3650)


class ProgramStatus(StrEnum):
    DRAFT = "draft"
    READY = "ready"
    ARCHIVED = "archived"


PROGRAM_MACHINE = Machine(
    "program",
    ProgramStatus.DRAFT,
    {
        (ProgramStatus.DRAFT, "publish"): ProgramStatus.READY,
        (ProgramStatus.DRAFT, "archive"): ProgramStatus.ARCHIVED,
        (ProgramStatus.READY, "archive"): ProgramStatus.ARCHIVED,
    },
)


class Program(Noun):
    id: ProgramId
    project_id: ProjectId
    name: Name
    description: str = ""
    status: ProgramStatus = ProgramStatus.DRAFT
    capture: CapturePolicy = CapturePolicy()
    labels: dict[str, int] = Field(default_factory=dict)  #: label -> version number
    latest_version: int | None = None
    managed_by: str | None = None
    revision: int = 1
    created_at: datetime
    updated_at: datetime


class ProgramVersion(Noun):
    """Immutable. `hash` is the SHA-256 of the artifact's canonical JSON."""

    id: VersionId
    project_id: ProjectId
    program_id: ProgramId
    number: int = Field(ge=1)
    hash: str
    artifact: Artifact
    created_by: str
    created_at: datetime


class ProgramSource(Noun):
    """What a caller sends: a program written by hand (YAML or JSON), before it is resolved.

    Either `module` (one predictor), `modules` (several) or `import_path`. Signatures are
    strings (`question -> answer`) or field lists. `models` says by module or predictor which
    registered model answers, "" standing for all others. `variables` says in one line each what
    an optimizer may change (variables/declare.py), `constraints` what must hold among them.
    """

    module: dict[str, Any] | None = None
    modules: dict[str, dict[str, Any]] | None = None
    outputs: dict[str, str] | None = None
    import_path: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    state: dict[str, Any] | None = None
    signature: str | dict[str, Any] | None = None
    adapter: AdapterName = AdapterName.CHAT
    models: dict[str, Name] = Field(default_factory=dict)
    variables: dict[str, Any] | None = None
    constraints: tuple[Any, ...] = ()

    @field_validator("variables", "constraints", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Nouns as their whole JSON: what is sent would else leave their defaults out."""
        if isinstance(given, dict):
            return {name: _as_json(written) for name, written in given.items()}
        return (
            [_as_json(written) for written in given] if isinstance(given, list | tuple) else given
        )


class NewProgram(Noun):
    """`source` makes version 1 in the same transaction and, unless told not to, labels it."""

    name: Name
    description: str = ""
    capture: CapturePolicy = CapturePolicy()
    source: ProgramSource | None = None
    labels: tuple[Name, ...] = ()


class NewVersion(Noun):
    """A source written by hand, or an exported artifact with its hash."""

    source: ProgramSource | None = None
    artifact: dict[str, Any] | None = None
    hash: str | None = None
    labels: tuple[Name, ...] = ()


class LabelTarget(Noun):
    version: int = Field(ge=1)


class ExportedVersion(Noun):
    """An artifact as JSON: what NewVersion takes back, losslessly."""

    hash: str
    artifact: dict[str, Any]


class ProgramUpdate(Noun):
    description: str | None = None
    capture: CapturePolicy | None = None


class LabelMove(Noun):
    """An event: a label was put on a version, or moved from one to another."""

    label: str
    from_version: int | None
    to_version: int
    actor: str
    at: datetime


class VersionSpace(Noun):
    """What may be changed about a version: as it declares, else as follows from its modules.

    `current` are the values that the version has now, of the variables that it has one of.
    """

    program: str
    version: int
    declared: bool
    hash: str
    space: Space
    figures: Figures
    current: Configuration


def _as_json(written: Any) -> Any:
    if isinstance(written, BaseModel):
        return written.model_dump(mode="json", by_alias=True)
    return written
