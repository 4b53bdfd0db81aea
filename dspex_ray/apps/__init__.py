"""Ray Serve builders: the only place that declares deployments."""
