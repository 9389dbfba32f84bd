"""Frames: one chunk, compressed when that pays, and back. Pure."""
