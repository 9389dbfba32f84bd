"""Makes `from metaflow import Checkpoint` that of ckptfs, unless metaflow-checkpoint is installed, whose it is then."""

from importlib.util import find_spec

__mf_extensions__ = "ckptfs"

if not find_spec("metaflow_extensions.obcheckpoint"):
    from ckptfs.metaflow.outside import Checkpoint as Checkpoint
