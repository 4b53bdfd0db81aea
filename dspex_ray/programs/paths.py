"""What the path of a variable names in a program.

`adapter` and `provider` are the program's (`provider` changes nothing by itself: it is there for
constraints and conditions on `model` to look at); `temperature`, `max_tokens`, `top_p`, `seed`,
`module`, `instructions`, `demos` and `model` are of every predictor, or of one, as
`draft.temperature`; `inputs.k` is the default of an input, `kwargs.k` an argument of a class.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dspex_ray.core.errors import Invalid
from dspex_ray.programs.model import Artifact, ImportArtifact
from dspex_ray.programs.rules import predictor_names

GENERATION = ("temperature", "max_tokens", "top_p", "seed")
TEXTS = ("instructions", "demos")
_OF_PROGRAM = ("adapter", "provider")
_OF_PREDICTORS = (*GENERATION, "module", *TEXTS, "model")


class Target(NamedTuple):
    """`owners` are the modules (of a class, the predictors) that it is about."""

    of: Literal["program", "predictor", "inputs", "kwargs"]
    owners: tuple[str, ...]
    attribute: str


def target_of(artifact: Artifact, path: str) -> Target:
    """Raises Invalid naming the path when the artifact has nothing of that name."""
    prefix, _, attribute = path.rpartition(".")
    known = _owners(artifact)
    every = tuple(predictors_by_owner(artifact))
    if not prefix and attribute in _OF_PROGRAM:
        return Target("program", (), attribute)
    if not prefix and attribute in _OF_PREDICTORS:
        if attribute in TEXTS and len(every) > 1:
            raise _unknown(path, f"say whose they are: {', '.join(every)}")
        return _changeable(artifact, path, Target("program", every, attribute))
    if prefix in known and attribute in _OF_PREDICTORS:
        return _changeable(artifact, path, Target("predictor", (known[prefix],), attribute))
    inputs = [field.name for field in artifact.signature.inputs]
    if prefix == "inputs" and attribute in inputs:
        return Target("inputs", (), attribute)
    if prefix == "kwargs" and isinstance(artifact, ImportArtifact) and attribute in artifact.kwargs:
        return Target("kwargs", (), attribute)
    allowed = [*_OF_PROGRAM, *_OF_PREDICTORS, *(f"inputs.{name}" for name in inputs)]
    raise _unknown(path, f"there are: {', '.join(allowed)}; before a dot: {', '.join(every)}")


def predictors_by_owner(artifact: Artifact) -> dict[str, str]:
    """The predictor's name, as assignments have it, by module; of a class, by itself."""
    names = predictor_names(artifact)
    owners = names if isinstance(artifact, ImportArtifact) else tuple(artifact.modules)
    return dict(zip(owners, names, strict=True))


def _owners(artifact: Artifact) -> dict[str, str]:
    """Modules by their own name and by their predictor's."""
    by_owner = predictors_by_owner(artifact)
    return {name: owner for owner, names in by_owner.items() for name in (owner, names)}


def _changeable(artifact: Artifact, path: str, target: Target) -> Target:
    if target.attribute == "module" and isinstance(artifact, ImportArtifact):
        raise _unknown(path, "the modules of a class are what its code makes them")
    return target


def _unknown(path: str, why: str) -> Invalid:
    return Invalid(
        f"variable {path!r} changes nothing of this program ({why})", field=path, rule="variable"
    )
