"""The asynchronous client: written by hand. dspex_ray/client/sync is generated from it."""
