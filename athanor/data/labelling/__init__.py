"""Labels from a machine, with confidence, and a person's review of those it is not sure of."""
