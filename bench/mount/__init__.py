"""The mount against the native filesystem of its cache directory, paired in one run; see docs/BENCHMARKS.md."""
