"""Object stores: one small protocol (base.py), a directory (file.py) and S3 (s3.py)."""
