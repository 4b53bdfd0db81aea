"""What a Serve config file may say to an application, checked as Serve does."""

from __future__ import annotations

import importlib
import warnings

import pytest
from pydantic import ValidationError


@pytest.mark.parametrize("application", ["gateway", "control"])
def test_unknown_arguments_are_refused(application: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Serve's own models warn where they are defined
        from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as called

        build = importlib.import_module(f"dspex_ray.apps.{application}").build
    with pytest.raises(ValidationError, match="num_replica"):
        called(build, {"num_replica": 2})
