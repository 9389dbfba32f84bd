"""`python -m ckptfs` is `ckptfs`."""

from ckptfs.cli import main

main()
