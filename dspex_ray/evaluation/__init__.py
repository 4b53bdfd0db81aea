"""Evaluation: metrics, the harness that runs a version over a dataset, and what came of it."""
