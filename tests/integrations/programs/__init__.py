"""Small training runs, one for each framework: python -m tests.integrations.programs.NAME DIRECTORY [DIE_AT]."""
