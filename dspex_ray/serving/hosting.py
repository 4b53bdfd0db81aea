"""Which models this instance hosts itself, and as which Serve applications. Pure."""

from __future__ import annotations

from dspex_ray.core.canonical import content_hash
from dspex_ray.core.noun import Noun
from dspex_ray.models.hosting import HostingOptions, hosting_options
from dspex_ray.models.model import Model, Provider

PREFIX = "hosted-"
CONTEXT = 4096  # tokens a call, when the model names no context window


class HostedModel(Noun):
    """What the host is built from; it can be read in the dashboard and holds no secret."""

    name: str
    weights: str
    context_window: int = CONTEXT
    options: HostingOptions = HostingOptions()


def is_hosted(model: Model) -> bool:
    return model.provider is Provider.LOCAL and model.base_url is None


def application_names(model: Model) -> tuple[str, ...]:
    """One a replica, so that callers choose among them. Named by project and content too: another
    project's model of this name has hosts of its own, and a model whose weights, context or
    hosting change gets new ones."""
    mark = content_hash([str(model.project_id), hosting(model).model_dump()])[:8]
    replicas = hosting_options(model.config).replicas
    return tuple(f"{PREFIX}{model.name}-{mark}-{number}" for number in range(replicas))


def hosting(model: Model) -> HostedModel:
    return HostedModel(
        name=model.name,
        weights=model.model_name,
        context_window=model.context_window or CONTEXT,
        options=hosting_options(model.config),
    )
