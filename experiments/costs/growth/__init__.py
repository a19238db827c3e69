"""How a step's time grows with the model, the batch and the devices."""
