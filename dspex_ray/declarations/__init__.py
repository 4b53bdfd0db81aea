"""Declarative configuration: a file says what shall be; the plan says what that changes."""
