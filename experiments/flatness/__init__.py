"""How flat the loss is around trained replicas: measured, compared, and drawn."""
