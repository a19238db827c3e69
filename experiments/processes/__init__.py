"""Several processes and devices: how they find each other, share arrays, and stop."""
