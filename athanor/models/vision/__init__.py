"""Convolutional and hierarchical vision networks: a backbone that gives a map per stage, and a head that classifies."""
