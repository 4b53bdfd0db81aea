"""What is measured beside the platform, each started and ended by a context manager."""
