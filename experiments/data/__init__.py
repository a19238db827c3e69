"""Data sets: where examples come from, how they are read, ordered and augmented."""
