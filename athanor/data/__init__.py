"""Raw files → documents → corpus → token shards → batches; no network, no torch."""
