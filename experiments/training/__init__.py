"""Training: one step, many replicas side by side, and one run that survives."""
