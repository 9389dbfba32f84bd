"""Checkpoints as training really writes them: small models, trained here, seeded.

    bench/results/sequences/NAME/K/...      the files of version K, under the names that the trainer gave them

Training takes some 15 minutes on two processors and happens once; 8 GB of disk. Every version is a whole tree of files,
which replaces the one before.
"""

from bench.sequences.sequence import LONG, NAMES, Sequence, SequencePairs, load_sequences, make_sequences

__all__ = ["LONG", "NAMES", "Sequence", "SequencePairs", "load_sequences", "make_sequences"]
