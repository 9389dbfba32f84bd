"""Bytes that a version takes, given those before it: ckptfs and other ways of storing it; see docs/BENCHMARKS.md."""
