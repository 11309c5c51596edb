"""Files of every kind become documents."""
