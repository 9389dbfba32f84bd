"""History: reading versions, committing new ones, and the rules that keep it to one writer."""
