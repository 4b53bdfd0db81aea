"""dspex-ray: run DSPy programs in production, on Ray and Postgres."""

__version__ = "0.1.0"
