"""The Python SDK: AsyncDspex, and Dspex generated from it. Needs httpx and pydantic only."""

from dspex_ray.client.aio.dspex import AsyncDspex
from dspex_ray.client.sync.dspex import Dspex

__all__ = ["AsyncDspex", "Dspex"]
