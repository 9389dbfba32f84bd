"""Flows for the tests. xgboostflow.py and its checkpointer are a document's; only `checkpoint` comes from ckptfs."""
