"""Data that are not here: fetched as programs read them and ahead of them, and given up again when space is needed."""
