# Generated from ../aio/__init__.py by scripts/generate_sync_client.py: edit that one.
"""The synchronous client: generated from dspex_ray/client/aio."""
