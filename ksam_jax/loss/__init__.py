"""The user's loss: run forward over a batch, and the gradient of chosen rows."""
