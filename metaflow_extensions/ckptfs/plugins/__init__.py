"""Makes `from metaflow import checkpoint` that of ckptfs, unless metaflow-checkpoint is installed, whose it is then."""

from importlib.util import find_spec

STEP_DECORATORS_DESC = (
    []
    if find_spec("metaflow_extensions.obcheckpoint")
    else [("checkpoint", "ckptfs.metaflow.decorator.CheckpointDecorator")]
)
