"""ckptfsd: the daemon that keeps every mount of its configuration up."""
