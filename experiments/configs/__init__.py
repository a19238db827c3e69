"""Settings of the experiments, as frozen dataclasses, and the values that were chosen."""
