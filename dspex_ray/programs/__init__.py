"""Signatures, modules, programs and their immutable versions; how one is run."""
