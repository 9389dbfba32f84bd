"""ckptfs: a checkpoint filesystem. Write plain files, touch `.save`, find the newest version again after a remount."""

__version__ = "0.1.0"
