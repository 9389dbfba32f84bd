"""`python -m ckptfsd`."""

from ckptfsd.main import main

main()
