"""Sums over pytrees, and masks of them."""
