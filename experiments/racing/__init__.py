"""Who reaches the plain optimizer's accuracy first, and what of that is speed."""
