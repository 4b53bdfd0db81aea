"""What happened: executions, LM calls, attempts; spool first, Postgres after."""
