"""Evaluation and optimization beside DSPy's own, on models whose speed and quality are known."""
