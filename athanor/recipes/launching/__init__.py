"""A run on a cluster: what to start there, written as the cluster's own kind of job; one file for each kind."""
