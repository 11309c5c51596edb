"""A corpus becomes token shards, batches and the index that says who taught what."""
