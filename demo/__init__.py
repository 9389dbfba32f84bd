"""The main job on real input: `make demo`."""
