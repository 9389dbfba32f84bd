"""Moving bytes: pending versions up to the store, files of a version down from it."""
