"""Nodes of a batch that know how many examples they have."""
