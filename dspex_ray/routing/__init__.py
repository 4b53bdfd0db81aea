"""Which model answers a call, and what happens when it does not."""
