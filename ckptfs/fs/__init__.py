"""The mounted filesystem: operations, control files, and the mount process."""
