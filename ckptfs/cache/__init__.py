"""Local state on disk: the cache directory, pending versions, kept objects."""
