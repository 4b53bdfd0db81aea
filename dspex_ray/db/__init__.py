"""Postgres: the whole schema, the engine, status moves, audit, migrations, the embedded server."""
