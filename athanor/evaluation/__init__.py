"""Tasks, metrics, statistics and reports."""
