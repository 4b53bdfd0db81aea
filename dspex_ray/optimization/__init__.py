"""Optimization: optimizers by name, what they search and may spend, and what they found."""
