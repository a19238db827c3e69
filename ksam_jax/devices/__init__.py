"""Several devices, or groups in their place: who averages what, what lives where."""
