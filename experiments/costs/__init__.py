"""What a training step costs: time, operations, memory, and what devices send."""
