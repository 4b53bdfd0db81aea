"""Alembic's entry: migrates the connection that `db.migrate` hands over."""

from alembic import context

from dspex_ray.db.tables import metadata


def _ours(name: str | None, kind: str, parents: object) -> bool:
    """Leave procrastinate's tables and the partitions' children to their owners."""
    return not (
        kind == "table"
        and name is not None
        and (name.startswith("procrastinate_") or "_p2" in name)
    )


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    include_name=_ours,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
