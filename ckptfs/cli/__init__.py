"""The command line: one module per command; PRODUCT names, exit codes and error form."""
