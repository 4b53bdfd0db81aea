"""The queues of background work. One worker serves them all; a queue is for filters and figures."""

from __future__ import annotations

from enum import StrEnum


class Queue(StrEnum):
    HEALTH = "health"  #: checks of models, pipelines and deployments
    DEPLOYMENT = "deployment"  #: steps of a deployment
    EVALUATIONS = "evaluations"  #: programs measured on datasets
    EXPERIMENTS = "experiments"  #: steps of an experiment
    ML_OPTIMIZATION = "ml_optimization"  #: submits and follows optimisation runs
    ML_INFERENCE = "ml_inference"  #: program runs that nobody waits for
    MAINTENANCE = "maintenance"  #: stalled jobs, old jobs, partitions
