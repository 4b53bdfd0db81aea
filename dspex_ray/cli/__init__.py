"""The dspex command."""
