"""What the losses of Flax's and Equinox's models have in common; none is imported here."""
