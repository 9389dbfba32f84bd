"""Measurements against other tools; not installed."""
