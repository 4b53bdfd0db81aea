"""The documents' commands run against the instance that the end-to-end tests use."""

from tests.e2e.platform import platform

__all__ = ["platform"]
