"""The control plane's HTTP app: mounts every room's routes."""
