"""ckptfsd: the supervisor of mounts."""
