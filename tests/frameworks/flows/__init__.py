"""Flows for the tests. xgboostflow.py and xgboost_checkpointer.py are a document's: only `checkpoint` comes from ckptfs."""
