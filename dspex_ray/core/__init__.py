"""Values, errors, machines and clocks: no I/O, nothing but pydantic."""
