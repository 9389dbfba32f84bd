"""Frames: one chunk, compressed when that pays, and back. Pure."""

import os

# numpy's linear algebra, which nothing here uses, would start a thread for each processor: 45 ms of processor time in
# every process on two of them, and the more the larger the machine
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
