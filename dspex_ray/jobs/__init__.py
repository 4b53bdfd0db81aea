"""Background work: the procrastinate app and the Worker actor that runs it."""
