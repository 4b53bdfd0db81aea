"""What the actor is given: an import path, and a name that tells its code."""

from __future__ import annotations

import re

import pytest

from dspex_ray.jobs.actor import code_version, worker_name
from dspex_ray.jobs.worker import load_build


def test_a_build_function_is_found_by_its_path() -> None:
    assert load_build("dspex_ray.jobs.worker:load_build") is load_build  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("path", ["", "os", "os:", ":path", "os:no_such", "os:sep"])
def test_a_path_that_names_no_function_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="names no function"):
        load_build(path)


def test_the_name_tells_node_and_code() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*-[0-9a-f]{8}", code_version())
    assert worker_name("abcdef0123456789") == f"worker-abcdef012345-{code_version()}"
