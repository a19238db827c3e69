"""One step of a method, from what `update` is given to the next state."""
