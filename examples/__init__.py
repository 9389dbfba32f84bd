"""Training runs that are killed and resumed, one folder each; `python -m examples.run` tells the story of each."""
