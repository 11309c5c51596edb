"""The recipe runner and the shipped recipes."""
