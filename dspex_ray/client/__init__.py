"""The Python SDK: async written, sync generated; light to import."""
