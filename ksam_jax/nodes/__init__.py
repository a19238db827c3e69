"""Nodes of a batch that know how many examples they have, and programs in a trace."""
