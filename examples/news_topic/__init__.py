"""The topic of a news article, by a small model on this machine: what `make demo` runs."""
