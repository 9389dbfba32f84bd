"""Callbacks for training frameworks, each a few lines over the client: docs/frameworks/ has a page for each.

Rules:
    B1  a model is written by the framework's own writer, into the directory, under one name that is overwritten:
        versions keep what was
    B2  then one touch, with the step and the metrics as the note
    B3  before going on, the directory is taken back to the newest version: what a killed program had half written is
        set aside
    B4  of the ranks of a job the first writes and saves
    B5  a module imports its framework and the client, and nothing else imports it; a framework that is missing is named
"""
