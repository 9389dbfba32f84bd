"""Watching an ordinary directory where FUSE is not allowed: the same marker, versions and restore, and weaker promises.

What it cannot promise is in docs/WATCH.md.
"""
