"""Datasets: examples under a content hash, versioned, imported, split by seeds."""
