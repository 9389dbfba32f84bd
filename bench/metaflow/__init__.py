"""The document's Metaflow flow with ckptfs and with metaflow-checkpoint, on one S3 server."""
