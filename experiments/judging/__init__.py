"""What outputs are for, and what predictions are judged by."""
